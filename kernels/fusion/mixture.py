"""The weighted sum of sparse distributions, which every fusion rule ends in.

How left-out mass is shared: a source's left-out mass stays left out, times its weight, also for tokens that another
source keeps; nothing is guessed about it. So the fused row's left-out mass is the weighted mean of the sources'.
"""

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.projection import sort_row
from logitfuse.kernels.sparse import Sparse


def mixture(sources: Sequence[Sparse], weights_ST: NDArray[np.float64], *, keep_unserved: bool = False) -> Sparse:
    """Return sum_s weights[s, t] * sources[s][t] for every position t; best first, ties by lowest id.

    Where a source does not serve a position, the weights of those that do are scaled up to their former sum, so a
    served position keeps total weight. With `keep_unserved` they are not: the position stays as empty as its
    chosen source left it.
    """
    served_ST = np.stack([source.counts > 0 for source in sources])
    used_ST = np.where(served_ST, weights_ST, 0.0)
    if not keep_unserved:
        have_T, want_T = used_ST.sum(axis=0), weights_ST.sum(axis=0)
        used_ST = used_ST * np.divide(want_T, have_T, out=np.zeros_like(have_T), where=have_T > 0)
    counts_ST = np.stack([source.counts for source in sources])
    room_T = np.where(used_ST > 0, counts_ST, 0).sum(axis=0)
    merged = (np.concatenate([[0], np.cumsum(room_T)]).astype(np.int64), *_empty(int(room_T.sum())))
    sizes_T = np.zeros(len(room_T), np.int64)
    for source, used_T in zip(sources, used_ST, strict=True):
        _accumulate(source.offsets, source.ids, source.probs, used_T, *merged, sizes_T)
    return Sparse(*_compact(*merged, sizes_T))


def _empty(size: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    return np.empty(size, np.int32), np.empty(size, np.float64)


@numba.njit(cache=True, nogil=True)
def _accumulate(offsets, ids, probs, used_T, room, out_ids, out_probs, sizes_T):  # type: ignore[no-untyped-def]
    for t in range(len(used_T)):
        if used_T[t] <= 0.0:
            continue
        start = room[t]
        for j in range(offsets[t], offsets[t + 1]):
            stop = start + sizes_T[t]
            i = start
            while i < stop and out_ids[i] != ids[j]:
                i += 1
            if i == stop:
                out_ids[i] = ids[j]
                out_probs[i] = 0.0
                sizes_T[t] += 1
            out_probs[i] += used_T[t] * probs[j]


@numba.njit(cache=True, nogil=True)
def _compact(room, ids, probs, sizes_T):  # type: ignore[no-untyped-def]
    offsets = np.zeros(len(sizes_T) + 1, np.int64)
    for t in range(len(sizes_T)):
        sort_row(ids, probs, room[t], room[t] + sizes_T[t])
        offsets[t + 1] = offsets[t] + sizes_T[t]
        for i in range(sizes_T[t]):  # rows only ever move towards the front, so this is safe in place
            ids[offsets[t] + i] = ids[room[t] + i]
            probs[offsets[t] + i] = probs[room[t] + i]
    return offsets, ids[: offsets[-1]].copy(), probs[: offsets[-1]].copy()
