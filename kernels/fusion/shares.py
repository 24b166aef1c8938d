"""Shares of the sources: a softmax over them, and what becomes of shares in a summary."""

# legend: S sources, T positions, G groups of positions

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions


def shares(logits_ST: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax over sources at each position, float64 [S, T]; 0 at -inf, all 0 where all are -inf.

    Each position is computed on its own, sources in order: what stands beside it changes nothing in its last bits.
    """
    found: NDArray[np.float64] = _shares(np.ascontiguousarray(logits_ST, np.float64))
    return found


def mean_shares(weights_ST: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean weights [S, G] of each group of positions; those where no source counts are left out."""
    found: NDArray[np.float64] = _mean_shares(weights_ST, offsets)
    return found


def winners(sources: Sequence[Distributions], weights_ST: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return which of the sources that serve a position counts most there, the first of equals; -1 for none."""
    offsets_ST = np.stack([source.offsets for source in sources])
    found: NDArray[np.int32] = _winners(offsets_ST, weights_ST)
    return found


@numba.njit(cache=True, nogil=True)
def _shares(logits_ST):  # type: ignore[no-untyped-def]
    shares_ST = np.zeros_like(logits_ST)
    for t in range(logits_ST.shape[1]):
        highest, total = -np.inf, 0.0
        for s in range(len(logits_ST)):
            highest = max(highest, logits_ST[s, t])
        if highest == -np.inf:
            continue
        for s in range(len(logits_ST)):
            shares_ST[s, t] = np.exp(logits_ST[s, t] - highest)
            total += shares_ST[s, t]
        for s in range(len(logits_ST)):
            shares_ST[s, t] /= total
    return shares_ST


@numba.njit(cache=True, nogil=True)
def _mean_shares(weights_ST, offsets):  # type: ignore[no-untyped-def]
    means_SG = np.zeros((len(weights_ST), len(offsets) - 1))
    for g in range(len(offsets) - 1):
        counted = 0
        for t in range(offsets[g], offsets[g + 1]):
            counts = False
            for s in range(len(weights_ST)):
                means_SG[s, g] += weights_ST[s, t]
                counts |= weights_ST[s, t] > 0.0
            counted += counts
        for s in range(len(weights_ST)):
            means_SG[s, g] /= max(counted, 1)
    return means_SG


@numba.njit(cache=True, nogil=True)
def _winners(offsets_ST, weights_ST):  # type: ignore[no-untyped-def]
    winner_T = np.full(weights_ST.shape[1], -1, np.int32)
    for t in range(len(winner_T)):
        most = 0.0
        for s in range(len(weights_ST)):
            if weights_ST[s, t] > most and offsets_ST[s, t + 1] > offsets_ST[s, t]:
                most, winner_T[t] = weights_ST[s, t], s
    return winner_T
