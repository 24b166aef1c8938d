"""Handing a stage's portions to deployment runs on any number of machines, and seeing to it that all get done.

What is done is read from the records, never from a run's state: a run that Prefect calls crashed may have finished,
and the rest of one that died is given to another.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from logitfuse.flows.portions import Portion
from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.unit import Unit

SECONDS_BETWEEN_LOOKS = 2.0
ATTEMPTS = 3  # of a portion whose runs die without getting on
FAILURES_THAT_END_A_STAGE = 3
SECONDS_TO_APPEAR = 60.0  # in which a record published elsewhere is seen here: network file systems cache names


class Standing(NamedTuple):
    """Where a run is: waiting for a worker, at work, or how it ended and what it said."""

    state: Literal["waiting", "working", "completed", "failed", "crashed", "cancelled"]
    message: str = ""


class Runs(Protocol):
    """Deployment runs, wherever they are done."""

    def start(self, portion: Portion, attempt: int) -> UUID:
        """Start a run of a portion, or return the one that an earlier attempt of the caller left at work."""

    def standing(self, runs: Sequence[UUID]) -> dict[UUID, Standing]:
        """Say where runs are."""

    def cancel(self, runs: Sequence[UUID]) -> None:
        """End runs; what they have finished stays."""


class Shown(Protocol):
    """Whoever is told how it goes."""

    def begins(self, portion: Portion) -> None: ...

    def done(self, unit: Unit) -> None: ...

    def failed(self, unit: Unit) -> None: ...

    def say(self, line: str) -> None: ...


@dataclass
class Handing:
    """One stage that is handed out."""

    runs: Runs
    shown: Shown
    missing: Callable[[Iterable[Unit]], list[Unit]]  # of these units, those of which no record stands
    wait: Callable[[float], None] = time.sleep
    going: dict[UUID, Portion] = field(default_factory=dict)
    left: dict[Portion, list[Unit]] = field(default_factory=dict)  # of a portion, at its latest run's start
    attempts: Counter[Portion] = field(default_factory=Counter)
    completed: dict[UUID, float] = field(default_factory=dict)  # seconds since a run said so, its records not seen yet
    begun: set[UUID] = field(default_factory=set)
    failures: dict[Unit, WorkFailed] = field(default_factory=dict)

    def do(self, portions: Sequence[Portion]) -> dict[Unit, WorkFailed]:
        """Hand out all portions and return what failed, by the first unit that is missing.

        However it is left, no run of it goes on: those that are at work are cancelled.
        """
        try:
            for portion in portions:
                self._start(portion)
            while self.going and len(self.failures) < self._bearable(portions):
                self.wait(SECONDS_BETWEEN_LOOKS)
                for run, standing in self.runs.standing(list(self.going)).items():
                    self._look(run, standing)
        finally:
            self.runs.cancel(list(self.going))
        return self.failures

    def _bearable(self, portions: Sequence[Portion]) -> int:
        """How many failures end the stage: the first one where hosts wait for each other."""
        return 1 if any(portion.rank is not None for portion in portions) else FAILURES_THAT_END_A_STAGE

    def _start(self, portion: Portion) -> None:
        self.left[portion] = self.missing(portion.units)
        self.attempts[portion] += 1
        self.going[self.runs.start(portion, self.attempts[portion])] = portion

    def _look(self, run: UUID, standing: Standing) -> None:
        portion = self.going[run]
        if standing.state == "waiting":
            return
        if run not in self.begun:
            self.begun.add(run)
            self.shown.begins(portion)
        if standing.state != "working":
            self._ended(run, portion, standing)

    def _ended(self, run: UUID, portion: Portion, standing: Standing) -> None:
        missing = self.missing(portion.units)
        for unit in self.left[portion]:
            if unit not in missing:
                self.shown.done(unit)
        got_on = len(missing) < len(self.left[portion])
        self.left[portion] = missing
        if missing and standing.state == "completed" and self._may_appear(run):
            return
        del self.going[run]
        if not missing:
            return
        if standing.state == "crashed" and portion.rank is None:
            self._again(portion, standing, got_on)
        else:
            self._failed(portion, missing, _why(portion, missing, standing))

    def _may_appear(self, run: UUID) -> bool:
        """Whether what a run says it has done may still come into sight."""
        self.completed[run] = self.completed.get(run, 0.0) + SECONDS_BETWEEN_LOOKS
        return self.completed[run] < SECONDS_TO_APPEAR

    def _again(self, portion: Portion, standing: Standing, got_on: bool) -> None:
        if got_on:
            self.attempts[portion] = 0
        if self.attempts[portion] >= ATTEMPTS:
            self._failed(portion, self.left[portion], f"its runs died {ATTEMPTS} times. Last: {standing.message}")
            return
        self.shown.say(f"{portion}: its run died ({standing.message}); another one does what is missing")
        self._start(portion)

    def _failed(self, portion: Portion, missing: list[Unit], why: str) -> None:
        for unit in missing:
            self.shown.failed(unit)
        self.failures[missing[0]] = WorkFailed(why)
        self.shown.say(f"{portion}: {why}")


def _why(portion: Portion, missing: list[Unit], standing: Standing) -> str:
    if standing.state == "cancelled":
        return "its run was cancelled"
    if standing.state == "crashed":
        return f"its run died ({standing.message}), and the other hosts cannot go on without it. Run the stage again."
    if standing.state == "failed":
        return standing.message or "its run failed; see its page"
    return (
        f"its run says that it is done, but {len(missing)} of {len(portion.units)} results are not to be seen from "
        "here. All workers must have the same execution.folder and the same models: use a shared file system."
    )
