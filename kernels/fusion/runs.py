"""Runs of positions with the same scores: what depends on scores alone is worked out once for each."""

# legend: S sources, T positions, R runs

import numba
import numpy as np
from numpy.typing import NDArray


def runs(values_ST: NDArray) -> NDArray[np.int64]:
    """Return where each run of positions with equal values of all sources begins, and T at the end, int64 [R+1]."""
    found: NDArray[np.int64] = _runs(np.ascontiguousarray(values_ST, np.float64))
    return found


def spread(values_SR: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give each position its run's values, float64 [S, T]."""
    found: NDArray[np.float64] = _spread(np.ascontiguousarray(values_SR, np.float64), starts)
    return found


@numba.njit(cache=True, nogil=True)
def _runs(values_ST):  # type: ignore[no-untyped-def]
    positions = values_ST.shape[1]
    begins_T = np.zeros(positions, np.bool_)
    begins_T[:1] = True
    for s in range(len(values_ST)):
        values_T = values_ST[s]
        for t in range(1, positions):
            begins_T[t] |= values_T[t] != values_T[t - 1]
    starts = np.empty(positions + 1, np.int64)
    r = 0
    for t in range(positions):
        starts[r] = t  # without a branch: what is not a start is written over
        r += begins_T[t]
    starts[r] = positions
    return starts[: r + 1].copy()


@numba.njit(cache=True, nogil=True)
def _spread(values_SR, starts):  # type: ignore[no-untyped-def]
    spread_ST = np.empty((len(values_SR), starts[-1]), np.float64)
    for s in range(len(values_SR)):
        for r in range(len(starts) - 1):
            spread_ST[s, starts[r] : starts[r + 1]] = values_SR[s, r]
    return spread_ST
