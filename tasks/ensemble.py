"""An ensemble as one of stage evaluate's models: a mixture of target and sources, from what these have scored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from logitfuse.kernels.ensemble import member_spans, mix_spans
from logitfuse.kernels.scores import ScoredChunks
from logitfuse.storage.schemas import EVALUATE
from logitfuse.storage.shards import IDENTITY_COLUMNS, Rows, rows_together, verified_path, writing_rows
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.named_weights import check_named_weights
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.evaluate import EvaluateSettings
    from logitfuse.tasks.run import Run

ENSEMBLE = "ensemble"
Mixing = Literal["none", "mean", "bayes"]
COPIED = [*IDENTITY_COLUMNS, "domain", "split", "bytes"]
SCORED = ["begin", "ends", "nats"]


def members(run: Run) -> dict[str, float]:
    """Return target and sources, as they came, with their weights; one of weight 0 is no member.

    Raises `BadInput` for a weight of a model that is not there, or if no model has one.
    """
    labels = list(dict.fromkeys([run.target.label, *run.teachers]))
    return weights_of(run.recipe.evaluate.ensemble_weights, labels)


def weights_of(weights: dict[str, float], labels: Collection[str]) -> dict[str, float]:
    """Return the members' weights, 1 where none is given; raises `BadInput`."""
    check_named_weights("evaluate.ensemble_weights", "model", weights, labels)
    return {label: weight for label in labels if (weight := weights.get(label, 1.0))}


def own_settings(settings: EvaluateSettings) -> EvaluateSettings:
    """Return what an ensemble's key holds of stage evaluate's settings: nothing of how its members computed."""
    return type(settings)(split=settings.split, ensemble=settings.ensemble)


def ensemble_work(run: Run, unit: Unit) -> Work:
    """Describe the ensemble's evaluation; raises `ShardMissing` before all its members are evaluated."""
    weights = members(run)
    records = {label: run.record(Unit("evaluate", label)) for label in weights}
    bayes = run.recipe.evaluate.ensemble == "bayes"

    def compute(path: Path, progress: Progress) -> Counts:
        return mix_members(run, records, np.array(list(weights.values())), bayes, path, progress)

    return Work(
        stage="evaluate",
        place=f"evaluate/{unit.source}",
        name="held-out",
        compute=compute,
        settings=own_settings(run.recipe.evaluate),
        inputs=tuple(records.values()),
        fingerprints={"weights": list(weights.values())},
    )


def mix_members(
    run: Run, records: dict[str, Record], weights_S: np.ndarray, bayes: bool, path: Path, progress: Progress
) -> Counts:
    """Mix the members' shards; held-out text is small by construction, so all of it is held at once."""
    files = {label: (verified_path(run.store, record), [*COPIED, *SCORED]) for label, record in records.items()}
    rows: list[dict[str, Any]] = []
    scored = {label: Reading() for label in files}
    for views, at in rows_together(files):
        for label, view in views.items():
            scored[label].add(view, at)
        first = next(iter(views.values()))
        rows.append({name: first.value(name, at) for name in COPIED})
    begins_C = np.array([c == 0 or row["doc_id"] != rows[c - 1]["doc_id"] for c, row in enumerate(rows)], np.bool_)
    mixed = mix_spans(member_spans([s.chunks() for s in scored.values()]), begins_C, weights_S, bayes=bayes)
    with writing_rows(path, EVALUATE) as add:
        for c, row in enumerate(rows):
            part = slice(mixed.offsets[c], mixed.offsets[c + 1])
            add({**row, "begin": max(int(mixed.begin[c]), 0), "ends": mixed.ends[part], "nats": mixed.nats[part]})
    progress(len(rows), len(rows))
    counts: Counts = {"chunks": len(rows), "spans": len(mixed.nats), "members": len(records)}
    return counts | {"nats": float(mixed.nats.sum())}


@dataclass
class Reading:
    """What one member has scored, chunk by chunk."""

    begins: list[int] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    nats: list[np.ndarray] = field(default_factory=list)

    def add(self, view: Rows, row: int) -> None:
        """Add a chunk."""
        self.begins.append(view.value("begin", row))
        self.ends.append(view.values("ends", row).astype(np.int64))
        self.nats.append(view.values("nats", row).astype(np.float64))

    def chunks(self) -> ScoredChunks:
        """Return all of them after one another."""
        offsets = np.cumsum([0, *map(len, self.ends)])
        ends, nats = np.concatenate([np.zeros(0, np.int64), *self.ends]), np.concatenate([np.zeros(0), *self.nats])
        return ScoredChunks(offsets, np.array(self.begins, np.int64), ends, nats)
