"""Runs that meet full disks, refusals and signals, and go on: what they say, and what stands in the end."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from run_contents import published, results, scratch
from runs_under_fire import Command, Forks, Undisturbed, run_command
from troubles import VARIABLE

NEVER = 1 << 60
WORKED, TOLD = 0, 2  # exit codes
Trouble = list[Any]  # the name of a function of troubles.py, and its arguments


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    said: str

    @property
    def told(self) -> str:
        """The one line that says what is wrong."""
        lines = " ".join(self.said.split()).split("logitfuse: ")
        assert "Traceback" not in self.said, self.said
        assert len(lines) == 2, self.said
        return lines[1]


@dataclass
class Troubled:
    """One run folder in which commands meet troubles."""

    forks: Forks
    wanted: Undisturbed
    name: str

    def given(self, *stages: str) -> Troubled:
        """Put there what the undisturbed run made in some stages, so that this one need not."""
        folder, made = self.wanted.run_folder(self.name), self.wanted.run_folder("undisturbed")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "run.json", folder)
        for stage in stages:
            shutil.copytree(made / stage, folder / stage)
        return self

    def stage(self, name: str, *options: str) -> list[str]:
        """Return the command that does a stage."""
        return ["stage", name, str(self.wanted.recipe(self.name)), "--plain", *options]

    def start(self, *troubles: Trouble, training: Trouble | None = None, command: list[str] | None = None) -> Command:
        """Start a command, `run` if none is given."""
        environment = {VARIABLE: "|".join(str(part) for part in training)} if training else {}
        command = command or run_command(self.wanted.recipe(self.name))
        return self.forks.start(command, NEVER, 0.0, None, environment=environment, troubles=list(troubles))

    def end(self, *troubles: Trouble, training: Trouble | None = None, command: list[str] | None = None) -> Ended:
        """Start a command and wait for its end."""
        return ended(self.start(*troubles, training=training, command=command))

    def below(self) -> str:
        """Return the folder whose files are changed."""
        return str(self.wanted.run_folder(self.name))

    def as_undisturbed(self, *, only: bool = True) -> None:
        """Go on without trouble: what is published, and `only` that, is what an undisturbed run publishes."""
        done = self.end()
        assert done.code == WORKED, done.said
        folder = self.wanted.run_folder(self.name)
        found = published(folder)
        assert {name: found.get(name) for name in self.wanted.published} == self.wanted.published
        assert not only or found.keys() == self.wanted.published.keys()
        assert results(folder) == self.wanted.results
        assert not scratch(folder)


def ended(command: Command) -> Ended:
    """Wait for a command."""
    code = command.wait()
    return Ended(code, command.log.read_text())


def stands(run: Troubled) -> dict[str, int]:
    """Return when each result was written, by its name: what stays is not written again."""
    folder = run.wanted.run_folder(run.name)
    recorded = [path for path in folder.rglob("*.parquet") if path.with_suffix(".json").exists()]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in recorded}
