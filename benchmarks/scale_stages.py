"""What a child process of `scale.py` does: one stage, shard by shard, noting what each took."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from process import forget_peak, memory_mb, processor_seconds
from stub_capture import StubRun

from logitfuse.tasks.checks import check_folder, check_space, claim_folder
from logitfuse.tasks.engine import Outcome
from logitfuse.tasks.execute import do_prepare, do_unit, do_units
from logitfuse.tasks.unit import Unit

STAGES = ("prepare", "encode", "capture", "map", "align", "fuse")
COMPARED = ("encode", "align", "fuse")  # by the shard, and no stubs
PAIRS = 6
TRACE = "trace.jsonl"
Facts = dict[str, Any]


def run_stage(run: StubRun, stage: str, fresh: list[str]) -> None:
    """Do what is missing of one stage; note time and memory of every shard that is made.

    `fresh` is the command of a process that serves the stage's shards again, to compare with.
    """
    check_folder(run.recipe)
    check_space(run.recipe)
    claim_folder(run.recipe)
    with (run.recipe.folder / TRACE).open("a") as trace:

        def note(facts: Facts) -> None:
            trace.write(json.dumps({"stage": stage, **facts}) + "\n")
            trace.flush()

        made_any = False
        for unit, outcome, taken in prepared(run) if stage == "prepare" else made(run, stage):
            if outcome is None or outcome.state == "done":
                made_any = True
                note({"unit": unit, **taken})
        if made_any and stage in COMPARED:
            for facts in compared(run, stage, fresh):
                note(facts)


def made(run: StubRun, stage: str) -> Iterator[tuple[str, Outcome, Facts]]:
    """Yield (unit, outcome, what it took) of every unit of a stage."""
    units = do_units(run, run.units(stage))
    while True:
        taken = Taken()
        try:
            unit, outcome = next(units)
        except StopIteration:
            return
        yield str(unit), outcome, taken.facts()


def prepared(run: StubRun) -> Iterator[tuple[str, None, Facts]]:
    """Yield (shard, None, what it took) of every shard of the corpus; the first reads ahead for held-out text."""
    found: list[Facts] = []
    taken = Taken()

    def note(done: int, total: int) -> None:
        nonlocal taken
        found.append(taken.facts())
        taken = Taken()

    do_prepare(run, progress=note)
    yield from ((f"prepare/part-{shard:05d}", None, facts) for shard, facts in enumerate(found))


class Taken:
    """Time and memory from now on."""

    def __init__(self) -> None:
        forget_peak()
        self.started, self.processor = time.time(), processor_seconds()

    def facts(self) -> Facts:
        """Return what was taken up to now: seconds of the processor and the clock, MB."""
        processor, seconds = processor_seconds() - self.processor, time.time() - self.started
        now, most = memory_mb()
        return {"processor": processor, "seconds": seconds, "resident": now, "peak": most}


def compared(run: StubRun, stage: str, fresh: list[str]) -> Iterator[Facts]:
    """Yield what shards of the first tenth and of the last take, made again by this process and by a fresh one."""
    for pairs in paired(run, stage):
        with serving(fresh) as ask:
            ask(pairs[0][0])  # compiles and loads, as this process has long done
            for unit in (unit for pair in pairs for unit in pair):
                yield {"again": str(unit), "by": "fresh", **ask(unit)}
                yield {"again": str(unit), "by": "old", **again(run, unit)}


def paired(run: StubRun, stage: str) -> list[list[tuple[Unit, Unit]]]:
    """Return for each source units of the first tenth, each with one of the last; none where there are few shards."""
    sources: dict[str | None, list[Unit]] = {}
    for unit in run.units(stage):
        sources.setdefault(unit.source, []).append(unit)
    return [  # the last shard of all is shorter
        list(zip(units[:PAIRS], units[-PAIRS - 1 : -1], strict=True))
        for units in sources.values()
        if len(units) >= 4 * PAIRS
    ]


def again(run: StubRun, unit: Unit) -> Facts:
    """Make one shard once more; return what that takes."""
    taken = Taken()
    do_unit(run, unit, redo=True)
    return taken.facts()


@contextmanager
def serving(command: list[str]) -> Iterator[Any]:
    """Yield a function that has a unit made by another process and returns what it took."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        asks, answers = child.stdin, child.stdout

        def ask(unit: Unit) -> Facts:
            asks.write(f"{unit}\n")
            asks.flush()
            facts: Facts = json.loads(answers.readline())
            return facts

        yield ask
        asks.close()


def serve_stage(run: StubRun, stage: str) -> None:
    """Make the shards again whose names come in, and answer what they take."""
    units = {str(unit): unit for unit in run.units(stage)}
    for line in sys.stdin:
        print(json.dumps(again(run, units[line.strip()])), flush=True)
