"""How the models of a run compare: each by itself, and the fused one against each other one by document."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from logitfuse.kernels.bootstrap import ratio_interval
from logitfuse.tasks.evaluate import contestants
from logitfuse.tasks.results import MEAN, documents_of, results

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

ENOUGH_DOCUMENTS = 5  # resampling fewer says little, and one not at all: its interval would be a point


def result_rows(run: Run) -> list[dict[str, Any]]:
    """Return nats per byte of every model in every domain and over all text, with 95% intervals by document."""
    return [asdict(result) for result in results(run)]


def gain_rows(run: Run) -> list[dict[str, Any]]:
    """Return by how many nats per byte the fused model is better than each other model, per domain.

    Both models are scored on the same documents and the difference is resampled, so what makes a document hard for
    both cancels: these intervals are much narrower than the distance of two separate ones.
    """
    models = contestants(run)
    documents = list(documents_of(run, models).values())
    fused = next(s for s, model in enumerate(models) if model.role == "fused")
    rows = []
    for s, model in enumerate(models):
        for domain in [*sorted({d.domain for d in documents}), MEAN] if s != fused else []:
            chosen = [d for d in documents if domain in (d.domain, MEAN)]
            nats_D2 = np.array([[d.nats_S[s], d.nats_S[fused]] for d in chosen]).reshape(-1, 2)  # none: D = 0
            bytes_D = np.array([d.bytes for d in chosen], np.float64)
            about = {"against": model.label, "role": model.role, "domain": domain}
            rows.append(about | gain(nats_D2[:, 0], nats_D2[:, 1], bytes_D))
    return rows


def gain(other_D: np.ndarray, fused_D: np.ndarray, bytes_D: np.ndarray) -> dict[str, Any]:
    """Compare two models on D documents, given their nats [D]; positive means that the fused model is better."""
    found = ratio_interval(other_D - fused_D, bytes_D)
    other = other_D.sum() / bytes_D.sum() if bytes_D.sum() else float("nan")
    percent = [100 * value / other if other else float("nan") for value in found]
    return {
        "nats_per_byte": found.value,
        "low": found.low,
        "high": found.high,
        **dict(zip(("percent", "percent_low", "percent_high"), percent, strict=True)),
        "verdict": verdict(found.low, found.high, len(bytes_D)),
    }


def verdict(low: float, high: float, documents: int) -> str:
    """Return better, worse, or unclear where the interval holds zero or there are too few documents for one."""
    if documents < ENOUGH_DOCUMENTS or not (low > 0 or high < 0):
        return "unclear"
    return "better" if low > 0 else "worse"


def pick(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any] | None:
    """Return the first row with these values, None if there is none."""
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)
