"""A plan as tables of words, for the terminal and for Prefect's pages alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from logitfuse.flows.pace import duration, quantity, scaled
from logitfuse.tasks.plan.fit import gigabytes
from logitfuse.tasks.plan.times import COMPUTED, ELSEWHERE

if TYPE_CHECKING:
    from logitfuse.tasks.plan.estimates import Estimate
    from logitfuse.tasks.plan.plan import Plan
    from logitfuse.tasks.plan.row import Row
    from logitfuse.tasks.run import Run

UNKNOWN = "–"
NUMBERS = frozenset({"done", "reads", "time left", "disk", "at the least", "with activations", "there is"})  # columns
SMALL = 0.005  # an error below half a percent is not told


@dataclass
class PlanTable:
    """A table: a title, columns, rows of cells, and lines below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def plan_tables(run: Run, plan: Plan) -> Iterator[PlanTable]:
    """Yield the tables of a plan; none where something is refused that nothing can be planned without."""
    if plan.sample is None or plan.disk is None:
        return
    yield _text(run, plan)
    yield _stages(plan)
    if plan.needs:
        yield _memory(plan)


def told(estimate: Estimate, measure: str = "") -> str:
    """Write an estimate with its error: `62,473`, `1.80 G ± 2%`."""
    value = quantity(estimate.value, measure) if measure else scaled(round(estimate.value))
    return value + _error(estimate)


def steps_of(count: int) -> str:
    """Write a number of steps: `1 step`, `1,200 steps`."""
    return f"{count:,} step{'s' * (count != 1)}"


def size(estimate: Estimate) -> str:
    """Write bytes with their error: `2.2 MB ± 15%`."""
    return gigabytes(estimate.value) + _error(estimate)


def _error(estimate: Estimate) -> str:
    return "" if estimate.relative < SMALL else f" ± {estimate.relative:.0%}"


def _text(run: Run, plan: Plan) -> PlanTable:
    amounts, sample = plan.amounts, plan.sample
    assert sample is not None
    rows = [[name, told(amounts.of(name)), ""] for name in ("documents", "chunks")]
    splits = [f"{told(of)} {split}" for split in ("train", "validation", "test")
              if (of := amounts.of(f"documents/{split}")).value]  # fmt: skip
    dropped = sum(sample.dropped.values())
    rows[0][2] = ", ".join(splits) + f"; {dropped:,} more repeat held-out text" * bool(dropped)
    rows.append(["text", size(amounts.of("bytes")), ""])
    for label, source in run.tokenizers.items():
        tokens = amounts.of(f"tokens/{label}")
        each = amounts.of("bytes").value / max(tokens.value, 1)
        rows.append([f"tokens of {source.label}", told(tokens), f"{each:.2f} bytes a token"])
    how = f"Counted on {sample.how}." if sample.whole else f"Estimated from {sample.how}, with 95% intervals."
    return PlanTable("The text", ["", "", "of these"], rows, [how])


def _stages(plan: Plan) -> PlanTable:
    rows = [_row(row) for row in plan.rows]
    disk, notes = plan.disk, []
    assert disk is not None
    left = _time(plan.seconds) if plan.timed else UNKNOWN
    rows.append(["all", "", "", "", left, size(disk.results) + " left"])
    if plan.timed:
        notes.append(f"Time left: on {plan.timed}.")
    if any(row.how == COMPUTED for row in plan.rows) and any(row.how == ELSEWHERE for row in plan.rows):
        notes.append("Data stages, which no GPU speeds up: as measured on CPU cores (docs/plan.md).")
    free = "an object store" if disk.free is None else f"{gigabytes(disk.free)} free"
    kept = f", {gigabytes(disk.checkpoints)} of it for checkpoints while a model is trained" if disk.checkpoints else ""
    notes.append(f"Disk: at most {gigabytes(disk.needed.high)} more{kept}; {free} at {disk.place}.")
    if plan.headroom is not None:
        notes.append(_headroom(plan))
    columns = ["stage", "of", "done", "reads", "time left", "disk"]
    if not plan.timed:  # a column of nothing
        rows, columns = [_without(row, 4) for row in rows], _without(columns, 4)
    return PlanTable("The stages", columns, rows, notes)


def _without(cells: list[str], at: int) -> list[str]:
    return cells[:at] + cells[at + 1 :]


def _row(row: Row) -> list[str]:
    amount = told(row.amount, row.measure) if row.amount.value else ""
    amount += f"\n{steps_of(row.steps)}" if row.steps else ""
    if row.done >= row.units:
        time = "done"
    else:
        time = UNKNOWN if row.seconds is None else _time(row.seconds)
    return [row.stage, row.called or "", f"{row.done:,} of {row.units:,}", amount, time, size(row.bytes)]


def _time(seconds: Estimate) -> str:
    return "under 1 s" if seconds.value < 1 else duration(seconds.value) + _error(seconds)


def _headroom(plan: Plan) -> str:
    found = plan.headroom or {}
    if not found["measured"]:
        return f"Headroom: cannot be measured: {found['why_not']}"
    if found["difference"] is None:
        return "Headroom: the fused targets rule out true tokens; see `logitfuse headroom`."
    better = "better" if found["difference"] < 0 else "WORSE"
    return f"Headroom: the fused targets are {better} than the target by {abs(found['difference']):.3f} nats a token."


def _memory(plan: Plan) -> PlanTable:
    rows = []
    for need in plan.needs:
        there = UNKNOWN if need.there is None else gigabytes(need.there)
        verdict = "" if need.there is None else "fits"
        if need.there is not None and need.memory.needed > need.there:
            verdict = "tight" if need.fits else "does not fit"
        most = gigabytes(need.memory.needed)
        beside = f"{most}, probed" if need.probed else f"about {most}"
        rows.append([need.stage, need.model, gigabytes(need.memory.least), beside, there, verdict])
    columns = ["stage", "of", "at the least", "with activations", "there is", ""]
    return PlanTable("Memory of a device", columns, rows)
