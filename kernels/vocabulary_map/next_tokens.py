"""Which token each of two tokenizers writes next, counted wherever both end a token at the same byte.

Legend: S source ids, V target ids, N different pairs.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from logitfuse.kernels.vocabulary_map.sparse_map import TwiceCut

PENDING = 1 << 22  # pairs that are gathered before equal ones are put together


class NextTokens(NamedTuple):
    """How often target token y began where source token s began, by rising s, then y."""

    source: NDArray[np.int64]  # [N]
    target: NDArray[np.int64]  # [N]
    times: NDArray[np.int64]  # [N]


def count_next_tokens(
    chunks: Iterable[TwiceCut], sizes: tuple[int, int], *, at_start: bool, max_tokens: int
) -> NextTokens:
    """Count (next source token, next target token) at the boundaries that both tokenisations of a chunk share.

    A boundary is a byte at which both end a token; where several tokens end at one byte, the last of them counts,
    as for alignment. `sizes`: (S, V), ids from there on are left out. `at_start`: the chunk's first byte is a boundary
    too. Chunks are read until they hold `max_tokens` target tokens.
    """
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    pending: list[NDArray[np.int64]] = []
    waiting = tokens = 0
    for chunk in chunks:
        if tokens >= max_tokens:
            break
        pending.append(_next_tokens(*chunk, sizes[0], sizes[1], at_start))
        waiting += len(pending[-1])
        tokens += len(chunk.target_ids)
        if waiting >= PENDING:
            keys, counts = _put_together(keys, counts, pending)
            waiting = 0
    keys, counts = _put_together(keys, counts, pending)
    return NextTokens(*divmod(keys, max(sizes[1], 1)), counts)


def _put_together(
    keys: NDArray[np.int64], counts: NDArray[np.int64], pending: list[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted different keys and how often each came, and forget the pending ones."""
    new, times = np.unique(np.concatenate([keys[:0], *pending]), return_counts=True)
    pending.clear()
    together, place = np.unique(np.concatenate([keys, new]), return_inverse=True)
    total = np.zeros(len(together), np.int64)
    np.add.at(total, place, np.concatenate([counts, times]))
    return together, total


@njit(nogil=True, cache=True)
def _next_tokens(source_ids, source_ends, target_ids, target_ends, sources, targets, at_start):  # type: ignore[no-untyped-def]
    """Return s * targets + y for each shared boundary, int64."""
    keys = np.empty(min(len(source_ids), len(target_ids)), np.int64)
    n = i = j = 0
    while i < len(source_ids) and j < len(target_ids):
        source_byte, target_byte = _byte_before(source_ends, i), _byte_before(target_ends, j)
        if source_byte < target_byte or source_byte < 0:
            i += 1
        elif target_byte < source_byte or target_byte < 0:
            j += 1
        elif _goes_on(source_ends, i):
            i += 1
        elif _goes_on(target_ends, j):
            j += 1
        else:
            inside = source_ids[i] < sources and target_ids[j] < targets
            if inside and (at_start or source_byte > 0):
                keys[n] = np.int64(source_ids[i]) * targets + target_ids[j]
                n += 1
            i, j = i + 1, j + 1
    return keys[:n].copy()


@njit(nogil=True, cache=True)
def _byte_before(ends, token):  # type: ignore[no-untyped-def]
    """Return the byte at which the text before a token ends, -1 where that is not known."""
    return ends[token - 1] if token > 0 else 0


@njit(nogil=True, cache=True)
def _goes_on(ends, token):  # type: ignore[no-untyped-def]
    """Whether a later token still begins, or the text ends, at the byte at which this token begins."""
    byte = _byte_before(ends, token)
    for later in range(token, len(ends)):
        if ends[later] >= 0:
            return ends[later] == byte
    return False
