"""What the target reads and predicts, for many chunks after one another; `kernels/positions.py` says it for one."""

# legend: C chunks, L text tokens of a chunk, T positions

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.positions import NO_LABEL


class Passages(NamedTuple):
    """The target's positions in C chunks: inputs, labels, and the byte each has consumed (-1 unknown)."""

    offsets: NDArray[np.int64]  # [C+1]
    inputs: NDArray[np.int32]  # [T]
    labels: NDArray[np.int32]  # [T]
    consumed: NDArray[np.int64]  # [T]


def passages(
    token_offsets: NDArray[np.int64],
    ids: NDArray[np.int32],
    ends: NDArray[np.int32],
    last_C: NDArray[np.bool_],
    *,
    start: int | None,
    end: int | None,
    past_end: bool = False,
) -> Passages:
    """Return the positions of C chunks: `positions`, `inputs_and_labels` and `consumed_bytes` of each in turn.

    `start` and `end` are token ids, None without; the end token stands after chunks that are the `last` of a document.
    """
    none = NO_LABEL  # no token id is negative
    starts, closes = none if start is None else start, none if end is None else end
    return Passages(*_passages(token_offsets, ids, ends, last_C, starts, closes, past_end))


@numba.njit(cache=True, nogil=True)
def _passages(token_offsets, ids, ends, last_C, start, end, past_end):  # type: ignore[no-untyped-def]
    chunks, first = len(last_C), 0 if start >= 0 else 1
    offsets = np.zeros(chunks + 1, np.int64)
    room = len(ids) + 2 * chunks
    inputs, labels = np.empty(room, np.int32), np.empty(room, np.int32)
    consumed = np.empty(room, np.int64)
    n = 0
    for c in range(chunks):
        base, length = token_offsets[c], token_offsets[c + 1] - token_offsets[c]
        closed = last_C[c] and end >= 0
        count = 0 if length == 0 else length - first + int(closed) + int(closed and past_end)
        for p in range(first, first + count):  # position p has consumed p text tokens
            inputs[n] = start if p == 0 else ids[base + p - 1] if p <= length else end
            labels[n] = ids[base + p] if p < length else end if p == length and closed else NO_LABEL
            known = 0 if p == 0 else ends[base + p - 1] if p <= length else ends[base + length - 1]
            consumed[n] = known + 1 if p > length and known >= 0 else known
            n += 1
        offsets[c + 1] = offsets[c] + count
    return offsets, inputs[:n].copy(), labels[:n].copy(), consumed[:n].copy()
