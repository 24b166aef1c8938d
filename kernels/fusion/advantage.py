"""Only what is worth learning: targets where another source knows the text better than the target model does."""

# legend: S sources, T positions

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions


def advantage(scores_ST: NDArray[np.float64], own: int, priors_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much the best other source is better than the target model at each position, float64 [T].

    `scores_ST`: nats per byte of the text that a position belongs to, lower is better, +inf for none. `own`: the target
    model. Sources of prior 0 do not count. Without a score on either side nothing is known to be better: -inf.
    """
    others_S = (np.arange(len(scores_ST)) != own) & (priors_S > 0)
    best_T = scores_ST[others_S].min(axis=0, initial=np.inf)
    known_T = np.isfinite(best_T) & np.isfinite(scores_ST[own])
    return np.where(known_T, np.where(known_T, scores_ST[own], 0.0) - np.where(known_T, best_T, 0.0), -np.inf)


def held_back(fused: Distributions, worth_T: NDArray[np.bool_]) -> Distributions:
    """Return the distributions with empty rows where they are not worth learning from."""
    counts_T = fused.counts
    offsets = np.concatenate([[0], np.cumsum(np.where(worth_T, counts_T, 0), dtype=np.int64)])
    kept_N = np.repeat(worth_T, counts_T)
    return Distributions(offsets, fused.ids[kept_N], fused.logprobs[kept_N], np.where(worth_T, fused.mass, 0.0))
