"""What came out: held-out nats per byte of every model, by domain, over bytes that all of them score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from logitfuse.kernels.bootstrap import Interval, ratio_interval
from logitfuse.kernels.scores import Scored, nats_over_identical_bytes
from logitfuse.storage.shards import Rows, rows_together, verified_path
from logitfuse.tasks.evaluate import Contestant, contestants
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

COLUMNS = ["domain", "begin", "ends", "nats"]
MEAN = "mean"


@dataclass(frozen=True)
class Result:
    """One model's held-out nats per byte in one domain, or over all text (`mean`)."""

    model: str
    role: str
    domain: str
    nats_per_byte: float
    low: float
    high: float
    documents: int


@dataclass
class DocumentScores:
    """One held-out document: nats of each model S, and the bytes that all of them score."""

    domain: str
    nats_S: np.ndarray
    bytes: int = 0


def results(run: Run) -> list[Result]:
    """Return the results of all models of a run that were evaluated; raises `ShardMissing` before that."""
    models = contestants(run)
    documents = list(documents_of(run, models).values())
    found = []
    domains = sorted({document.domain for document in documents})
    for s, model in enumerate(models):
        for domain in [*domains, MEAN]:
            chosen = [d for d in documents if domain in (d.domain, MEAN)]
            found.append(_result(model, domain, _interval(chosen, s), len(chosen)))
    return found


def _interval(documents: list[DocumentScores], s: int) -> Interval:
    nats_D = np.array([document.nats_S[s] for document in documents], np.float64)
    bytes_D = np.array([document.bytes for document in documents], np.float64)
    return ratio_interval(nats_D, bytes_D)


def _result(model: Contestant, domain: str, found: Interval, documents: int) -> Result:
    return Result(model.label, model.role, domain, found.value, found.low, found.high, documents)


def documents_of(run: Run, models: list[Contestant]) -> dict[str, DocumentScores]:
    """Return each held-out document's nats per model, over bytes that all of them score, by document id."""
    records = {model.label: run.record(Unit("evaluate", model.label)) for model in models}
    return gathered({label: verified_path(run.store, record) for label, record in records.items()})


def gathered(paths: Mapping[str, Path]) -> dict[str, DocumentScores]:
    """Return by document id what each of these evaluations says of the bytes that all of them score."""
    documents: dict[str, DocumentScores] = defaultdict(lambda: DocumentScores("", np.zeros(len(paths))))
    for views, row in rows_together({name: (path, COLUMNS) for name, path in paths.items()}):
        first = next(iter(views.values()))
        document = documents[first.value("doc_id", row)]
        document.domain = first.value("domain", row)
        nats_S, shared = nats_over_identical_bytes([_scored(view, row) for view in views.values()])
        document.nats_S += nats_S
        document.bytes += shared
    return documents


def _scored(view: Rows, row: int) -> Scored:
    """Return what an evaluation says of one chunk."""
    ends = view.values("ends", row).astype(np.int64)
    begins = np.concatenate([[view.value("begin", row)], ends[:-1]]) if len(ends) else ends
    return Scored(begins, ends, view.values("nats", row).astype(np.float64))
