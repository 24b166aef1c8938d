"""Alignment by byte offsets: a target position is served by the source position that consumed the same bytes."""

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.alignment import ALIGNMENTS, Side, VocabularyPair


@ALIGNMENTS("offsets")
def offsets(source: Side, target: Side, pair: VocabularyPair) -> NDArray[np.int64]:
    """Match positions whose consumed text ends at the same byte, in one pass over both sides; vocabularies are no part.

    Byte ends, not character offsets: all parts of a split character share a character offset, and using those would
    leak the future. Where several positions have consumed the same bytes (a lone prefix marker has no text), only the
    last one is a full context on either side.
    """
    return _merge(source.bytes_P, source.position_offsets, target.bytes_P, target.position_offsets)


@numba.njit(cache=True, nogil=True)
def _merge(source_bytes, source_offsets, target_bytes, target_offsets):  # type: ignore[no-untyped-def]
    serving = np.full(len(target_bytes), -1, np.int64)
    for c in range(len(source_offsets) - 1):
        s, s_stop = source_offsets[c], source_offsets[c + 1]
        latest = -1  # the last source position that has consumed at most the target's bytes
        previous = -1  # the last target position whose bytes are known
        for t in range(target_offsets[c], target_offsets[c + 1]):
            byte = target_bytes[t]
            if byte < 0:
                continue
            if previous >= 0 and target_bytes[previous] == byte:
                serving[previous] = -1
            while s < s_stop and source_bytes[s] <= byte:
                if source_bytes[s] >= 0:
                    latest = s
                s += 1
            if latest >= 0 and source_bytes[latest] == byte:
                serving[t] = latest
            previous = t
    return serving
