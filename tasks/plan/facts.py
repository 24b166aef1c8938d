"""A plan as plain numbers and words, for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitfuse.tasks.plan.estimates import Estimate
from logitfuse.tasks.plan.plan import FORMAT, Plan
from logitfuse.tasks.plan.times import PROBED

if TYPE_CHECKING:
    from logitfuse.tasks.plan.row import Row
    from logitfuse.tasks.run import Run

FORMULA = "from a formula"
SPLITS = ("train", "validation", "test")


def plan_facts(run: Run, plan: Plan) -> dict[str, Any]:
    """Return all that a plan says; bytes, seconds and counts as they are, estimates with the bounds of their interval.

    `text` and what follows are missing where something is refused that nothing can be planned without.
    """
    found: dict[str, Any] = {"format": FORMAT, "run": run.recipe.name, "folder": run.recipe.place, "goes": plan.goes}
    found |= {"refused": plan.refused, "does_not_fit": plan.reasons}
    if plan.sample is None or plan.disk is None:
        return found
    found["warnings"] = plan.warnings
    texts = plan.sample.texts
    amounts = plan.amounts
    found["text"] = {
        "sample": plan.sample.how,
        "sample_documents": len(texts),
        **{name: _numbers(amounts.of(name)) for name in ("documents", "chunks", "bytes")},
        "dropped": plan.sample.dropped,
        "splits": {split: _numbers(of) for split in SPLITS if (of := amounts.of(f"documents/{split}")).value},
    }
    found["tokens"] = [
        {"tokenizer": source.label, **_numbers(amounts.of(f"tokens/{label}"))}
        for label, source in run.tokenizers.items()
    ]
    found["train_tokens"] = _numbers(amounts.of("train/positions"))
    found["stages"] = [_stage(row) for row in plan.rows]
    found["timed"] = plan.timed or None
    found["seconds_left"] = _numbers(plan.seconds) if plan.timed else None
    disk = plan.disk
    found["disk"] = {
        "place": disk.place,
        "free": disk.free,
        "results_left": _numbers(disk.results),
        "checkpoints": disk.checkpoints,
        "needed": _numbers(disk.needed),
        "fits": disk.fits,
    }
    found["memory"] = [
        {
            "stage": need.stage,
            "model": need.model,
            "least": need.memory.least,
            "needed": need.memory.needed,
            "there": need.there,
            "how": PROBED if need.probed else FORMULA,
            "fits": need.fits,
        }
        for need in plan.needs
    ]
    found["headroom"] = plan.headroom
    return found


def _stage(row: Row) -> dict[str, Any]:
    return {
        "stage": row.stage,
        "source": row.source,
        "called": row.called,
        "units": row.units,
        "done": row.done,
        "reads": {"measure": row.measure, **_numbers(row.amount)},
        "steps": row.steps,
        "bytes": _numbers(row.bytes),
        "bytes_done": row.bytes_done,
        "seconds_left": _numbers(row.seconds) if row.seconds else None,
        "how": row.how,
    }


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {name: round(value, 3) for name, value in estimate._asdict().items()}
