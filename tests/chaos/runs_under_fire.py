"""Runs whose processes are killed at random moments and started again, until they are done."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from run_contents import published, results, scratch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tiny_models import WORDS, tiny_model  # noqa: E402

from logitfuse.tasks.stages import ORDER  # noqa: E402

NAME = "chaos"
NEVER = 1 << 60
MOST_STARTS = 200  # of one run
SIGKILL = -9


class Forks:
    """Starts `logitfuse` commands as forks of one process that has loaded everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "kills.txt"
        self._started = 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}
        self._program = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py")],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.communicate()

    def start(
        self, arguments: list[str], at: int, later: float, training: tuple[int, float] | None, **more: Any
    ) -> Command:
        """Start a command that dies when its changes of files weigh `at`; `training`: when the one that trains does."""
        self._started += 1
        log = self.folder / f"said-{self._started % 8}.txt"
        below = str(self.folder / "runs")
        environment = {"PYTHONPATH": f"{HERE / 'in_training'}:{os.environ.get('PYTHONPATH', '')}"}
        if training:
            environment["KILLED_IN_TRAINING"] = f"{below}|{training[0]}|{training[1]}|{self.notes}"
        environment |= more.pop("environment", {})
        task = {"start": arguments, "log": str(log), "environment": environment} | more
        return Command(self, self._ask(task | {"moment": [below, at, later, str(self.notes)]}), log)

    def wait(self, pid: int) -> int:
        """Wait for a command and return its exit code."""
        return self._ask({"wait": pid})

    def _ask(self, task: dict[str, Any]) -> int:
        assert self._program.stdin and self._program.stdout
        self._program.stdin.write(json.dumps(task) + "\n")
        self._program.stdin.flush()
        return int(self._program.stdout.readline())


@dataclass(frozen=True)
class Command:
    """A command that was started."""

    forks: Forks
    pid: int
    log: Path

    def wait(self) -> int:
        return self.forks.wait(self.pid)


@dataclass(frozen=True)
class Undisturbed:
    """A recipe, what its undisturbed run published, and what its changes of files weigh."""

    folder: Path
    content: dict[str, Any]
    published: dict[str, str]
    results: dict[str, Any]
    changes: int
    in_training: int = 40

    def recipe(self, name: str) -> Path:
        """Write the recipe of another run of the same work; their names are equal, because a model's card says it."""
        file = self.folder / f"{name}.yaml"
        execution = self.content["execution"] | {"folder": str(self.folder / "runs" / name)}
        file.write_text(yaml.safe_dump(self.content | {"execution": execution}))
        return file

    def run_folder(self, name: str) -> Path:
        """Return where that run's results lie."""
        return self.folder / "runs" / name / NAME


def undisturbed(forks: Forks, folder: Path) -> Undisturbed:
    """Make tiny models and a corpus, and run everything once."""
    content = recipe_content(folder)
    made = Undisturbed(folder, content, {}, {}, 0)
    command = forks.start(run_command(made.recipe("undisturbed")), NEVER, 0.0, None)
    if code := command.wait():
        raise RuntimeError(f"the undisturbed run ended with {code}: {command.log.read_text()}")
    run = made.run_folder("undisturbed")
    changes = int(Path(f"{command.log}.counted").read_text())
    return Undisturbed(folder, content, published(run), results(run), changes)


def recipe_content(folder: Path) -> dict[str, Any]:
    """Return a recipe of all stages that takes seconds: three shards, six steps, a checkpoint after every second."""
    first = tiny_model(folder / "first", 300, seed=1)
    second = tiny_model(folder / "second", 340, seed=2)
    draw = random.Random(0)
    texts = (" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(30))
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"doc-{at}", "text": text}) + "\n" for at, text in enumerate(texts)))
    return {
        "name": NAME,
        "target": {"model": str(first), "dtype": "float32"},
        "sources": [{"model": str(second), "dtype": "float32"}],
        "corpus": {"source": str(corpus), "documents_per_shard": 10, "held_out_share": 0.2},
        "check": {"nats_per_byte": None},
        "capture": {"k": 4, "tokens_per_batch": 512},
        "train": {
            "learning_rate": 1e-3, "dtype": "fp32", "sequence_length": 128, "sequences_per_step": 2, "epochs": 9,
            "max_steps": 6,
        },
        # No plan: what a disk that fills up half-way does to a run is tried, not that it is foreseen.
        "execution": {"min_free_gb": 0, "device": "cpu", "checkpoint_every_steps": 2, "plan": "skip"},
    }  # fmt: skip


def run_command(recipe: Path) -> list[str]:
    """Return the command that does all that is missing."""
    return ["run", str(recipe), "--plain"]


@dataclass
class Disturbed:
    """Runs under fire: `fell` counts kills by stage and operation."""

    forks: Forks
    wanted: Undisturbed
    draw: random.Random
    kills_per_run: int
    kills: int = 0
    fell: Counter[tuple[str, str]] = field(default_factory=Counter)
    runs: list[tuple[str, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def run(self, way: str) -> None:
        """Bring a new run to its end in one of three ways, and compare it; it is removed if nothing is wrong."""
        name = f"run-{len(self.runs)}"
        recipe, before = self.wanted.recipe(name), self.kills
        self._until_done(run_command(recipe), 2 if way == "two at once" else 1)
        if way == "redone":
            for stage in self.draw.sample(ORDER, 3):
                self._attempt([["stage", stage, str(recipe), "--plain", "--redo"]])
                self._until_done(run_command(recipe), 1)
        self.runs.append((way, self.kills - before))
        folder = self.wanted.run_folder(name)
        self.faults += [f"{name}, {way}: {fault}" for fault in self._compared(folder, recipe)]
        if not self.faults:
            shutil.rmtree(folder.parent)

    def _until_done(self, command: list[str], at_once: int) -> None:
        for _ in range(MOST_STARTS):
            if not any(self._attempt([command] * at_once)):
                return
        self.faults.append(f"{' '.join(command)}: not done after {MOST_STARTS} starts")

    def _attempt(self, commands: list[list[str]]) -> list[int]:
        """Start commands that die when it pleases chance; return their exit codes."""
        started = []
        for command in commands:
            moment = self._moment(self.wanted.changes)
            training = self._moment(self.wanted.in_training) if self.draw.random() < 0.5 else None
            started.append(self.forks.start(command, *moment, training))
        codes = [command.wait() for command in started]
        fallen = self._fallen()
        for command, code in zip(started, codes, strict=True):
            if code not in (0, SIGKILL) and not fallen:
                self.faults.append(f"exit code {code} though nothing was killed: {command.log.read_text()[-2000:]}")
        return codes

    def _moment(self, changes: int) -> tuple[int, float]:
        """Draw when to die: most often right at a change, otherwise up to 20 ms after it, in the midst of writing."""
        at = self.draw.randint(1, max(2, 2 * changes // self.kills_per_run))
        return at, 0.0 if self.draw.random() < 0.6 else self.draw.uniform(0, 0.02)

    def _fallen(self) -> int:
        """Count the kills that were noted since the last time."""
        if not self.forks.notes.exists():
            return 0
        lines = self.forks.notes.read_text().splitlines()
        self.forks.notes.unlink()
        for line in lines:
            kind, _, path = line.partition(" ")
            parts = Path(path).relative_to(self.wanted.folder / "runs").parts
            self.fell[(parts[2] if len(parts) > 3 else "run folder"), kind.removeprefix("os.")] += 1
        self.kills += len(lines)
        return len(lines)

    def _compared(self, folder: Path, recipe: Path) -> list[str]:
        if self.faults:
            return []
        found = published(folder)
        faults = [
            f"{name} differs" if name in found and name in self.wanted.published else f"{name} is on one side only"
            for name in sorted(found.keys() | self.wanted.published.keys())
            if found.get(name) != self.wanted.published.get(name)
        ]
        faults += [f"{name} was left" for name in scratch(folder)]
        if results(folder) != self.wanted.results:
            faults.append("the report's numbers differ")
        verify = self.forks.start(["verify", str(recipe)], NEVER, 0.0, None)
        if verify.wait():
            faults.append(f"verify: {verify.log.read_text()[-2000:]}")
        return faults
