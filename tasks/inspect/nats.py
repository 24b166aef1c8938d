"""What the true tokens cost: under the fused targets as the loss reads them, under each source, and for the student."""

# legend: T target positions of the stretch

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.headroom import OwnPredictions, gold_nats
from logitfuse.kernels.sparse import Sparse, rectangle

if TYPE_CHECKING:
    from logitfuse.tasks.inspect.predictions import Predictions
    from logitfuse.tasks.inspect.view import View


@dataclass(frozen=True, eq=False)
class Nats:
    """-log p of the true token at each position, float64 [T]; NaN where there is no prediction or it is not known.

    What a target gives a token that it does not keep depends on the student's own prediction; infinite: nothing.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    fused: NDArray[np.float64]
    sources: dict[str, NDArray[np.float64]]


def nats_of(view: View) -> Nats:
    """Return what is known of the stretch's true tokens."""
    residual, known = view.run.recipe.train.residual, view.before is not None
    own = _own(view, view.before)
    labels_T = view.positions.labels

    def of(rows: Distributions) -> NDArray[np.float64]:
        sparse = Sparse(rows.offsets, rows.ids, np.exp(rows.logprobs.astype(np.float64)))
        found = gold_nats(sparse, rows.mass, labels_T, own, residual)
        unknown = np.isinf(found) & (not known) if residual == "bucket" else np.zeros(len(found), bool)
        return np.where(unknown | (labels_T < 0), np.nan, found)

    return Nats(
        -own.gold_T,
        -_own(view, view.after).gold_T,
        of(view.taught.targets),
        {label: of(source.aligned) for label, source in view.sources.items()},
    )


def _own(view: View, predictions: Predictions | None) -> OwnPredictions:
    """Return a model's predictions at all positions of the stretch; NaN and nothing kept where there are none."""
    counts = np.diff(view.positions.offsets).tolist()
    if predictions is None:
        total = sum(counts)
        return OwnPredictions(np.full(total, np.nan), np.zeros((total, 0), np.int32), np.zeros((total, 0)))
    parts = [predictions.own(chunk, count) for chunk, count in enumerate(counts)]
    widths = np.concatenate([np.full(len(part.gold_T), part.ids_TK.shape[1]) for part in parts]).astype(np.int64)
    return OwnPredictions(
        np.concatenate([part.gold_T for part in parts]),
        rectangle(widths, np.concatenate([part.ids_TK.ravel() for part in parts]), -1),
        rectangle(widths, np.concatenate([part.probs_TK.ravel() for part in parts]), 0.0),
    )
