"""Alignment by byte offsets: a target position is served by the source position that consumed the same bytes."""

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.alignment import ALIGNMENTS


@ALIGNMENTS("offsets")
def offsets(source_bytes: NDArray[np.int64], target_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each target position the index of the source position that serves it, -1 where none does.

    `source_bytes` [P] and `target_bytes` [T] say at which byte the consumed text of each position ends, rising, with
    -1 where that is not known. Byte ends, not character offsets: all parts of a split character share a character
    offset, and using those would leak the future. Where several positions have consumed the same bytes (a lone
    prefix marker has no text), only the last one is a full context on either side.
    """
    source = _last_of_each(source_bytes)
    target = _last_of_each(target_bytes)
    found = np.searchsorted(source_bytes[source], target_bytes[target])
    inside = found < len(source)
    same = np.zeros(len(target), bool)
    same[inside] = source_bytes[source[found[inside]]] == target_bytes[target[inside]]
    serving = np.full(len(target_bytes), -1, np.int64)
    serving[target[same]] = source[found[same]]
    return serving


def _last_of_each(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the last position at each known byte."""
    known = np.flatnonzero(ends >= 0)
    if len(known) == 0:
        return known
    is_last = np.append(np.diff(ends[known]) != 0, True)
    return known[is_last]
