"""How far a stage is: its units report here, from several threads; the terminal and Prefect look here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from logitfuse.flows.pace import Clock, Rate, Standing, quantity

if TYPE_CHECKING:
    from logitfuse.tasks.engine import Counts, Progress
    from logitfuse.tasks.unit import Unit


@dataclass(frozen=True)
class Measure:
    """What a stage's work is counted in, and how the size of a unit is known before it is done."""

    name: str
    read: tuple[str, str] | None = None  # its first input of this stage, and the count in that one's record
    whole: bool = False  # every unit counts as one
    resumes: bool = False  # a unit goes on from a checkpoint: what its first report says was there before


@dataclass(frozen=True)
class Ahead:
    """A unit before its stage begins: how big it is in the stage's measure (None: not known), and whether it stands."""

    unit: Unit
    size: float | None = None
    stands: bool = False


@dataclass
class Part:
    """A unit's part of its stage's work, in the stage's measure."""

    size: float | None
    fixed: bool  # the size is known from what the unit reads; otherwise it is what the unit reports
    done: float = 0.0
    stood: float = 0.0  # of `done`: there before, so that it says nothing about the speed
    began: float | None = None
    ended: float | None = None
    reported: bool = False
    succeeded: bool = False
    tokens: float | None = None  # made now, once it is done

    @property
    def stands(self) -> bool:
        """Whether all of it was there before."""
        return self.size is not None and self.stood >= self.size


@dataclass(frozen=True)
class Made:
    """What a stage has made now, and in which time."""

    amount: float
    measure: str
    seconds: float

    @property
    def per_second(self) -> float:
        return self.amount / self.seconds if self.seconds > 0 else 0.0

    @property
    def speed(self) -> str:
        return f"{quantity(self.per_second, self.measure)}/s"

    def __str__(self) -> str:
        return f"{round(self.amount):,} {self.measure}, {self.speed}"


@dataclass
class _Group:
    """All units of a stage, or those of one source."""

    parts: list[Part] = field(default_factory=list)
    rate: Rate | None = None  # made when the first of them begins, so that waiting for its turn is no slowness


class StageProgress:
    """Sums up a stage's units. What stood before counts as done from the start, and not for the rate."""

    def __init__(self, stage: str, measure: Measure, ahead: Iterable[Ahead], clock: Clock = time.monotonic) -> None:
        """Begin a stage with the units `ahead`; `clock` gives seconds that only grow."""
        self.stage, self.measure, self._clock = stage, measure, clock
        self._lock = threading.Lock()
        self._parts: dict[Unit, Part] = {}
        self._groups: dict[str | None, _Group] = {None: _Group()}
        for each in ahead:
            self._add(each)

    def _add(self, ahead: Ahead) -> None:
        part = Part(ahead.size, fixed=ahead.size is not None)
        if ahead.stands:
            part.done = part.stood = part.size = 1.0 if ahead.size is None else ahead.size
        self._parts[ahead.unit] = part
        self._groups[None].parts.append(part)
        if ahead.unit.source is not None:
            self._groups.setdefault(ahead.unit.source, _Group()).parts.append(part)

    @property
    def sources(self) -> list[str]:
        """The sources among its units, if there are several."""
        labels = [label for label in self._groups if label is not None]
        return labels if len(labels) > 1 else []

    @property
    def units(self) -> list[Unit]:
        return list(self._parts)

    def report(self, unit: Unit) -> Progress:
        """Note that a unit begins, and return the function to which it reports (done, total)."""
        with self._lock:
            part = self._parts[unit]
            part.began, part.ended, part.reported = self._clock(), None, False
            for group in self._groups_of(unit):
                group.rate = group.rate or Rate(self._clock)

        def note(done: int, total: int) -> None:
            with self._lock:
                self._note(unit, done, total)

        return note

    def _note(self, unit: Unit, done: int, total: int) -> None:
        part = self._parts[unit]
        if total > 0 and not part.fixed:
            part.size = float(total)
        amount = float(done) if part.size is None else part.size * min(1.0, done / total if total > 0 else 0.0)
        if self.measure.resumes and not part.reported:
            part.stood = part.done = amount
        part.reported = True
        self._advance(unit, part, amount)

    def _advance(self, unit: Unit, part: Part, amount: float) -> None:
        for group in self._groups_of(unit):
            if group.rate:
                group.rate.add(amount - part.done)  # less than before: the unit was tried again
        part.done = amount

    def finish(self, unit: Unit, state: Literal["done", "kept", "failed"], counts: Counts | None = None) -> None:
        """Note what became of a unit; what a failed one has done stays. `counts`: those of its record."""
        with self._lock:
            part = self._parts[unit]
            part.ended = self._clock()
            if state == "failed":
                return
            if part.size is None:
                part.size = part.done or 1.0
            if state == "kept":
                part.stood = part.done = part.size
                return
            self._advance(unit, part, part.size)
            part.succeeded, part.tokens = True, self._tokens_now(part, counts or {})

    def _tokens_now(self, part: Part, counts: Counts) -> float | None:
        if part.size and "tokens" in counts:
            counted = part.size - counts.get("untold_steps", 0)  # of a training whose first metrics are lost
            return float(counts["tokens"]) * min(1.0, (part.size - part.stood) / counted) if counted > 0 else None
        return part.done - part.stood if self.measure.name == "tokens" else None

    def _groups_of(self, unit: Unit) -> Sequence[_Group]:
        found = [self._groups[None]]
        return found if unit.source is None else [*found, self._groups[unit.source]]

    def standing(self, source: str | None = None) -> Standing:
        """Return where the stage stands, or its units of one source."""
        with self._lock:
            group = self._groups[source]
            done, total = sum(part.done for part in group.parts), _total(group.parts)
            rate = group.rate or Rate(self._clock)
            left = None if total is None else rate.seconds_for(max(0.0, total - done))
            return Standing(self.measure.name, done, total, rate.per_second, left)

    def unit_standing(self, unit: Unit) -> Standing:
        """Return where one unit stands; its rate is its source's affair."""
        with self._lock:
            return Standing(self.measure.name, self._parts[unit].done, self._parts[unit].size)

    def at_work(self) -> dict[Unit, float]:
        """Return the units at work, and for how many seconds they have been."""
        with self._lock:
            now = self._clock()
            return {u: now - p.began for u, p in self._parts.items() if p.began is not None and p.ended is None}

    def goes_on(self) -> bool:
        """Whether other units are at work or yet to be done."""
        with self._lock:
            return any(part.ended is None and not part.stands for part in self._parts.values())

    def made(self, source: str | None = None) -> Made | None:
        """Return what was made now: tokens where they are known, else the stage's measure.

        None if that is nothing, or whole units only, of which the states are counted anyway.
        """
        with self._lock:
            now = [part for part in self._groups[source].parts if part.succeeded]
            tokens = [part.tokens for part in now if part.tokens is not None]
            amount = sum(tokens) if tokens else sum(part.done - part.stood for part in now)
            if amount <= 0 or (self.measure.whole and not tokens):
                return None
            seconds = max(part.ended or 0.0 for part in now) - min(part.began or 0.0 for part in now)
            return Made(amount, "tokens" if tokens else self.measure.name, seconds)

    def tokens_made(self, unit: Unit) -> float | None:
        """Return how many tokens a finished unit made now; None where that is not known."""
        return self._parts[unit].tokens

    def said(self) -> str:
        """Say in a line where the stage stands and which units are at work."""
        units = []
        for unit in self.at_work():
            percent = self.unit_standing(unit).percent
            units.append(str(unit) if percent is None else f"{unit} {int(percent)}%")
        among = f" ({'; '.join(units)})" if units and len(self._parts) > 1 else ""
        return f"{self.stage}: {self.standing()}{among}"


def _total(parts: Sequence[Part]) -> float | None:
    """Sum the sizes; a unit that has not said its own yet is taken for a mean one."""
    known = [part.size for part in parts if part.size is not None]
    return sum(known) * len(parts) / len(known) if known else None
