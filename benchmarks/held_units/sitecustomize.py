"""Put on the PYTHONPATH of a worker: its runs stop in the middle of a unit for as long as a file `hold` lies there.

$HELD_UNITS names a folder with one folder per run, called as the one in $HELD_RUNS that it works in: `hold` in it says
in which stage, and after how many of its units, work shall stop; `notes` gets a line when a unit is begun, held and
computed, with the process's id.
A unit stops at its first report of progress, so with its file half written; training does in its child process, within
a step.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ENGINE, TRAINER = "logitfuse.tasks.engine", "logitfuse.tasks.training.trainer"
STEPS_BEFORE = 2  # of training


class Wrapped(importlib.abc.MetaPathFinder):
    """Changes these modules when they are imported, and nothing else."""

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module as usual, and wrap what executes it."""
        if name not in CHANGES:
            return None
        change = CHANGES.pop(name)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            change(module.__dict__)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def holding_units(engine: dict[str, Any]) -> None:
    """Let the engine note every unit that it computes, and stop in the one that is to be held."""
    do = engine["_do"]

    def noted(store: Any, work: Any, progress: Callable[[int, int], None]) -> Any:
        control = Control(store.root)
        unit = {"stage": work.stage, "unit": f"{work.place}/{work.name}"}
        held = control.holds(work.stage)
        control.note(unit, "began")

        def reported(done: int, total: int) -> None:
            progress(done, total)
            if held and work.stage != "train":
                control.hold(unit)

        def compute(path: Path, _: Any) -> Any:
            counts = work.compute(path, reported)
            if held and work.stage != "train":
                control.hold(unit)  # it may not have reported
            control.note(unit, "computed")
            return counts

        return do(store, replace(work, compute=compute), progress)

    engine["_do"] = noted


def holding_steps(trainer: dict[str, Any]) -> None:
    """Let training stop in its third step, where the stage is to be held."""
    whole = trainer["Trainer"]
    step_of = whole._step

    def step(self: Any, number: int) -> Any:
        control = Control(Path(self.config.out))
        if number >= STEPS_BEFORE and control.holds("train"):
            control.hold({"stage": "train", "unit": "a step"})
        return step_of(self, number)

    whole._step = step


class Control:
    """What is wanted of one run, and what it has noted."""

    def __init__(self, within: Path) -> None:
        """Find it by a path in the run's folder."""
        name = within.resolve().relative_to(Path(os.environ["HELD_RUNS"]).resolve()).parts[0]
        self._folder = Path(os.environ["HELD_UNITS"]) / name

    def holds(self, stage: str) -> bool:
        """Whether the unit that is about to begin shall be held."""
        try:
            wanted = json.loads((self._folder / "hold").read_text())
        except FileNotFoundError:
            return False
        notes = self._folder / "notes"
        done = notes.read_text().count('"computed"') if notes.exists() else 0
        return bool(wanted["stage"] == stage and done >= wanted["after"])

    def hold(self, unit: dict[str, str]) -> None:
        """Wait until `hold` is gone."""
        if (self._folder / "hold").exists():
            self.note(unit, "held")
        while (self._folder / "hold").exists():
            time.sleep(0.1)

    def note(self, unit: dict[str, str], what: str) -> None:
        """Append a line, whole, also where several processes do."""
        line = json.dumps({**unit, "what": what, "pid": os.getpid(), "at": time.time()}) + "\n"
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "notes").open("a") as stream:
            stream.write(line)


CHANGES: dict[str, Callable[[dict[str, Any]], None]] = {ENGINE: holding_units, TRAINER: holding_steps}
if "HELD_UNITS" in os.environ:
    sys.meta_path.insert(0, Wrapped())
