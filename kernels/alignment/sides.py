"""The chunks of a batch as one model read them, in flat arrays.

Position p has consumed p tokens, so that token i of a chunk leads to position i + 1; a start token is position 0 and
no token. Legend: C chunks, P positions, N tokens.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.positions import NO_LABEL


@dataclass(frozen=True, eq=False)
class Side:
    """Chunk c has tokens `tokens[token_offsets[c]:token_offsets[c+1]]` and positions likewise.

    `read_C`: how many of its tokens an alignment of tokens may use, fewer where a model's context ended early.
    `bytes_P`: the byte at which the text consumed by a position ends, -1 where that is not known.
    """

    first: int  # number of each chunk's first position: 0 with a start token, 1 without
    tokens: NDArray[np.int32]  # [N], a document's end token included
    token_offsets: NDArray[np.int64]  # [C+1]
    read_C: NDArray[np.int64]
    bytes_P: NDArray[np.int64]
    position_offsets: NDArray[np.int64]  # [C+1]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Number of each position in its chunk, int64 [P]."""
        starts = np.repeat(self.position_offsets[:-1], np.diff(self.position_offsets))
        return np.arange(len(starts)) - starts + self.first

    def inputs(self, start: int | None) -> NDArray[np.int32]:
        """Return the token each position has just read, int32 [P]; `start` is the start token."""
        return _beside_positions(self, -1, NO_LABEL if start is None else start)

    def labels(self) -> NDArray[np.int32]:
        """Return the token that follows each position, int32 [P], NO_LABEL past the end token."""
        return _beside_positions(self, 0, NO_LABEL)


def read_side(
    ids: NDArray[np.int32],
    ends: NDArray[np.int32],
    offsets: NDArray[np.int64],
    last_C: NDArray[np.bool_],
    *,
    start: bool,
    end: int | None,
    past_end: bool = False,
    captured_C: NDArray[np.int64] | None = None,
    max_length: int | None = None,
) -> Side:
    """Return the side of chunks with text tokens `ids[offsets[c]:offsets[c+1]]` and their byte ends.

    `last_C` says which chunks end a document and so are followed by the token `end`. `captured_C`: positions a model
    really has, where its context ended early. `max_length`: positions whose tokens an alignment of tokens may use.
    """
    first = 0 if start else 1
    lengths_C = np.diff(offsets)
    ended_C = (last_C & (lengths_C > 0)).astype(np.int64) if end is not None else np.zeros(len(lengths_C), np.int64)
    tokens_C = lengths_C + ended_C
    whole_C = np.where(lengths_C > 0, lengths_C - first + ended_C * (2 if past_end else 1), 0)
    positions_C = whole_C if captured_C is None else np.minimum(whole_C, captured_C)
    kept_C = positions_C if max_length is None else np.minimum(positions_C, max_length)
    # A model that stopped early has read what its last position has consumed, and nothing after it.
    read_C = np.where(kept_C < whole_C, np.where(kept_C > 0, first + kept_C - 1, 0), tokens_C)
    token_offsets, position_offsets = _offsets(tokens_C), _offsets(positions_C)
    tokens, bytes_P = _fill(ids, ends, offsets, token_offsets, position_offsets, first, -1 if end is None else end)
    return Side(first, tokens, token_offsets, read_C, bytes_P, position_offsets)


def one_to_one(source: Side, target: Side) -> NDArray[np.int64]:
    """Serve each target position by the source position of the same number: both sides share one tokenizer."""
    number_T = target.numbers - source.first
    counts_T = np.diff(target.position_offsets)
    there = (number_T >= 0) & (number_T < np.repeat(np.diff(source.position_offsets), counts_T))
    return np.where(there, number_T + np.repeat(source.position_offsets[:-1], counts_T), -1)


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _fill(ids, ends, offsets, token_offsets, position_offsets, first, end):  # type: ignore[no-untyped-def]
    tokens = np.empty(token_offsets[-1], np.int32)
    bytes_P = np.empty(position_offsets[-1], np.int64)
    for c in range(len(offsets) - 1):
        start, length = offsets[c], offsets[c + 1] - offsets[c]
        put = token_offsets[c]
        for i in range(length):
            tokens[put + i] = ids[start + i]
        if token_offsets[c + 1] - put > length:
            tokens[put + length] = end
        for p in range(first, first + position_offsets[c + 1] - position_offsets[c]):
            consumed = 0
            if p > 0:
                consumed = ends[start + min(p, length) - 1]
            if p > length and consumed >= 0:
                consumed += 1  # the end token counts as one byte, so that the position past it is like no other
            bytes_P[position_offsets[c] + p - first] = consumed
    return tokens, bytes_P


def _beside_positions(side: Side, shift: int, outside: int) -> NDArray[np.int32]:
    """Return token `number + shift` of each position, `outside` where there is no such token."""
    counts_P = np.diff(side.position_offsets)
    index_P = side.numbers + shift
    there = (index_P >= 0) & (index_P < np.repeat(np.diff(side.token_offsets), counts_P))
    found = np.full(len(index_P), outside, np.int32)
    found[there] = side.tokens[(index_P + np.repeat(side.token_offsets[:-1], counts_P))[there]]
    return found
