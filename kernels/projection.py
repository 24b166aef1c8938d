"""Carry a source's distributions over to the target's vocabulary, through a sparse map.

Mass that falls on the same target token is added (the published code keeps the first entry only and loses the
rest). Mass on tokens that the map does not know stays left out; it is never spread.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.sparse import Sparse


def project(
    ids_PK: NDArray[np.int32],
    probs_PK: NDArray[np.float64],
    rows_T: NDArray[np.int64],
    map_offsets: NDArray[np.int64],
    map_ids: NDArray[np.int32],
    map_weights: NDArray[np.float32],
) -> Sparse:
    """Return for each target position the distribution of source position `rows_T[t]` on target ids.

    Rows of `rows_T` below zero give an empty distribution. The map is CSR by source id: id s becomes
    `map_ids[map_offsets[s]:map_offsets[s+1]]` with these weights. Best first, equal probabilities by lowest id.
    """
    wide = _widest(ids_PK, rows_T, map_offsets)
    return Sparse(*_project(ids_PK, probs_PK, rows_T, map_offsets, map_ids, map_weights, wide))


@numba.njit(cache=True, nogil=True)
def _widest(ids_PK, rows_T, map_offsets):  # type: ignore[no-untyped-def]
    widest = 0
    for row in rows_T:
        if row < 0:
            continue
        width = 0
        for s in ids_PK[row]:
            if s + 1 < len(map_offsets):
                width += map_offsets[s + 1] - map_offsets[s]
        widest = max(widest, width)
    return widest


@numba.njit(cache=True, nogil=True)
def _project(ids_PK, probs_PK, rows_T, map_offsets, map_ids, map_weights, wide):  # type: ignore[no-untyped-def]
    offsets = np.zeros(len(rows_T) + 1, np.int64)
    ids = np.empty(len(rows_T) * wide, np.int32)
    probs = np.empty(len(rows_T) * wide, np.float64)
    n = 0
    for t in range(len(rows_T)):
        start = n
        row = rows_T[t]
        if row >= 0:
            for j in range(ids_PK.shape[1]):
                s = ids_PK[row, j]
                if s < 0 or s + 1 >= len(map_offsets):
                    continue
                for m in range(map_offsets[s], map_offsets[s + 1]):
                    n = _add(ids, probs, start, n, map_ids[m], probs_PK[row, j] * map_weights[m])
            sort_row(ids, probs, start, n)
        offsets[t + 1] = n
    return offsets, ids[:n].copy(), probs[:n].copy()


@numba.njit(cache=True, nogil=True)
def _add(ids, probs, start, n, token, mass):  # type: ignore[no-untyped-def]
    """Add mass to a token of the row [start, n); rows are short, so a scan beats a table."""
    if mass <= 0.0:
        return n
    for i in range(start, n):
        if ids[i] == token:
            probs[i] += mass
            return n
    ids[n] = token
    probs[n] = mass
    return n + 1


@numba.njit(cache=True, nogil=True)
def sort_row(ids, probs, start, stop):  # type: ignore[no-untyped-def]
    """Order one row by falling probability, then rising id, in place (rows are short and nearly sorted)."""
    for i in range(start + 1, stop):
        token, mass = ids[i], probs[i]
        j = i
        while j > start and (probs[j - 1] < mass or (probs[j - 1] == mass and ids[j - 1] > token)):
            ids[j], probs[j] = ids[j - 1], probs[j - 1]
            j -= 1
        ids[j], probs[j] = token, mass
