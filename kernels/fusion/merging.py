"""Rows of several sources merged into one, for many positions: what every mixing rule spends its time on."""

# legend: S sources, T positions, N entries of all sources

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.bfloat16 import round_bf16
from logitfuse.kernels.fusion.rows import add, add_by_table, put_in_order, sort_row, table_for

NARROW = 96  # entries of a row up to which comparing all pairs, without a branch, beats sorting


def merge_rows(
    offsets_ST: NDArray[np.int64],
    ids: NDArray[np.int32],
    probs: NDArray[np.float32],
    mass_ST: NDArray[np.float64],
    weights_ST: NDArray[np.float64],
    bf16: bool,
    start: int,
    out_offsets: NDArray[np.int64],
    out_ids: NDArray[np.int32],
    out_mass_T: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Merge the sources' rows, times their weights, and return the probabilities of the merged rows.

    Writes ids from `out_ids[start]` on, the rows' ends to `out_offsets[1:]` and their masses.
    """
    used_ST = _served_weights(offsets_ST, weights_ST)
    if bf16:
        used_ST = round_bf16(used_ST).astype(np.float64)
    found: NDArray[np.float32]
    found = _merged(offsets_ST, ids, probs, mass_ST, used_ST, bf16, start, out_offsets, out_ids, out_mass_T)
    return found


@numba.njit(cache=True, nogil=True)
def _served_weights(offsets_ST, weights_ST):  # type: ignore[no-untyped-def]
    """Return the weights of the sources that serve each position, scaled up to what all weights were."""
    used_ST = np.zeros(weights_ST.shape, np.float64)
    for t in range(weights_ST.shape[1]):
        have, want, missing = 0.0, 0.0, False
        for s in range(len(weights_ST)):
            want += weights_ST[s, t]
            if offsets_ST[s, t + 1] > offsets_ST[s, t]:
                used_ST[s, t] = weights_ST[s, t]
                have += weights_ST[s, t]
            elif weights_ST[s, t] > 0.0:
                missing = True
        if missing and have > 0.0:
            for s in range(len(weights_ST)):
                used_ST[s, t] *= want / have
    return used_ST


@numba.njit(cache=True, nogil=True)
def _merged(  # type: ignore[no-untyped-def]
    offsets_ST, ids, probs, mass_ST, used_ST, bf16, start, out_offsets, out_ids, mass_T
):
    sources, positions = used_ST.shape
    rows_T, sizes_T, widest = _rows(offsets_ST)
    out_probs = np.empty(len(ids), np.float32)
    row_ids, row_probs = np.empty(rows_T[-1], np.int32), np.zeros(rows_T[-1], np.float32)
    ranks, (table, places) = np.empty(NARROW, np.int32), table_for(widest)
    single = np.zeros(1, np.float32)
    scratch = (single, single.view(np.uint32))
    for s in range(sources):  # not row by row: a row that was written just now would stall whoever looks at it
        for t in range(positions):
            weight, row = np.float32(used_ST[s, t]), rows_T[t]
            first, stop = offsets_ST[s, t], offsets_ST[s, t + 1]
            mass_T[t] += used_ST[s, t] * mass_ST[s, t]
            if weight > 0.0 and rows_T[t + 1] - row <= np.uint64(NARROW):
                sizes_T[t] = add(ids, probs, first, stop, weight, row_ids, row_probs, row, sizes_T[t], bf16, scratch)
    n = 0
    for t in range(positions):
        row, size, ordered = rows_T[t], sizes_T[t], False
        if rows_T[t + 1] - row <= np.uint64(NARROW):
            ordered = put_in_order(row_ids, row_probs, row, size, ranks, out_ids, out_probs, start + n, n)
        else:
            for s in range(sources):
                weight, first, stop = np.float32(used_ST[s, t]), offsets_ST[s, t], offsets_ST[s, t + 1]
                if weight > 0.0:
                    size = add_by_table(
                        ids, probs, first, stop, weight, row_ids, row_probs, row, size, table, places, t, bf16, scratch
                    )
        if not ordered:
            sort_row(row_ids, row_probs, row, size, out_ids, out_probs, start + n, n)
        n += size
        while size > 0 and out_probs[n - 1] <= 0.0:  # too little to be told from 0
            n, size = n - 1, size - 1
        if bf16:
            mass_T[t] = 0.0
            for i in range(n - size, n):
                mass_T[t] += np.float64(out_probs[i])
        out_offsets[t + 1] = start + n
    return out_probs[:n]


@numba.njit(cache=True, nogil=True)
def _rows(offsets_ST):  # type: ignore[no-untyped-def]
    """Return where each row has room, in whole vectors, for all sources' entries, its size so far, and the widest."""
    positions, widest = offsets_ST.shape[1] - 1, 0
    rows_T, sizes_T = np.zeros(positions + 1, np.uint64), np.zeros(positions, np.int64)
    for t in range(positions):
        width = 0
        for s in range(len(offsets_ST)):
            width += offsets_ST[s, t + 1] - offsets_ST[s, t]
        widest = max(widest, width)
        rows_T[t + 1] = rows_T[t] + np.uint64((width + 15) & -16)
    return rows_T, sizes_T, widest
