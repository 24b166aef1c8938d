"""How much work a stage has before it, and how much of it stands: from records, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from logitfuse.flows.stage_progress import Ahead, Measure, StageProgress
from logitfuse.tasks.engine import find
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.engine import Work
    from logitfuse.tasks.run import Run


# Stages that are not here count whole units.
MEASURES = {
    "prepare": Measure("documents"),
    "encode": Measure("bytes", read=("prepare", "bytes")),
    "check": Measure("models", whole=True),
    "adapt": Measure("steps", resumes=True),
    "capture": Measure("tokens", read=("encode", "tokens")),  # the source's own
    "map": Measure("vocabularies", whole=True),
    "align": Measure("tokens", read=("encode", "tokens")),  # the target's, as in fuse
    "fuse": Measure("tokens", read=("encode", "tokens")),
    "headroom": Measure("shards"),
    "train": Measure("steps", resumes=True),
    "merge": Measure("tensors"),
    "evaluate": Measure("tokens"),
}
WHOLE = Measure("units", whole=True)


def stage_progress(run: Run, stage: str, units: Sequence[Unit], *, redo: bool = False) -> StageProgress:
    """Return the progress of a stage that is about to begin with these units; `redo`: none of them counts as done."""
    measure = MEASURES.get(stage, WHOLE)
    ahead = [_ahead(run, unit, measure, redo) for unit in units]
    return StageProgress(stage, measure, ahead)


def _ahead(run: Run, unit: Unit, measure: Measure, redo: bool) -> Ahead:
    if unit.stage == "prepare":
        return Ahead(unit)
    try:
        work = run.work(unit)
        record = None if redo else find(run.store, work)
    except Exception:  # the unit itself will stumble over it, and say so with its name
        return Ahead(unit)
    return Ahead(unit, _size(measure, work, record), record is not None)


def _size(measure: Measure, work: Work, record: Record | None) -> float | None:
    if measure.whole:
        return 1.0
    if measure.read is None:
        return record.counts.get(measure.name) if record else None
    stage, count = measure.read
    return next((record.counts.get(count) for record in work.inputs if record.stage == stage), None)
