"""One line of a plan: a stage for one source, what it reads, writes and takes."""

from __future__ import annotations

from dataclasses import dataclass

from logitfuse.tasks.plan.estimates import Estimate, exact


@dataclass(frozen=True)
class Row:
    """One stage for one source: `amount` in `measure` is what all its units read; `seconds` is None where unknown."""

    stage: str
    source: str | None
    called: str | None  # how people know the source
    units: int
    done: int
    measure: str
    amount: Estimate
    bytes: Estimate
    bytes_done: int
    seconds: Estimate | None = None
    how: str = ""  # the time is known
    steps: int = 0  # of a training

    @property
    def left(self) -> float:
        """Share of its units that are not done."""
        return 1 - self.done / self.units if self.units else 0.0

    @property
    def bytes_left(self) -> Estimate:
        return self.bytes.plus(-self.bytes_done) if self.done < self.units else exact(0)
