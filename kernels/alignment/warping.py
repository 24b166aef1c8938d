"""Dynamic time warping of two token sequences (FuseLLM's published code), exactly, in bounded memory.

The table has a cell per (source token, target token): M[i,j] = cost(i,j) + min(M[i-1,j-1], M[i-1,j], M[i,j-1]). The
way back from the last cell takes the first minimum of diagonal, up, left. It needs two bits per cell, but not all at
once: the rows between blocks are kept, and the directions of one block are worked out when the way back reaches it.
Legend: N source tokens, M target tokens, U unique pieces.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

DIAGONAL, UP, LEFT = 0, 1, 2
CELLS = 1 << 26  # directions of one block, and costs of one table, that are held at a time where that is enough


class Costs:
    """Edit distances, over code points, between the tokens of two sequences: a table over their unique pieces."""

    def __init__(self, source: Sequence[str], target: Sequence[str], cells: int = CELLS) -> None:
        self._pieces, self._source = _unique(source)
        self._choices, self.target = _unique(target)
        self.longest = max(map(len, (*self._pieces, *self._choices)), default=0)
        if self.longest > np.iinfo(np.uint16).max:
            raise ValueError(
                f"a vocabulary's piece has {self.longest} characters; alignment 'dtw' takes 65535 at most."
            )
        self._whole = self._table(self._pieces) if len(self._pieces) * len(self._choices) <= cells else None

    def __len__(self) -> int:
        return len(self._source)

    def of_rows(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """Return for source tokens start to stop their row in a table, and the table, uint16 [U source, U target]."""
        rows = self._source[start:stop]
        if self._whole is not None:
            return rows, self._whole
        used, rows = np.unique(rows, return_inverse=True)
        return rows, self._table([self._pieces[i] for i in used])

    def _table(self, pieces: Sequence[str]) -> NDArray[np.uint16]:
        from rapidfuzz.distance import Levenshtein  # here, so that a machine without it can align by offsets
        from rapidfuzz.process import cdist

        table: NDArray[np.uint16] = cdist(pieces, self._choices, scorer=Levenshtein.distance, dtype=np.uint16)
        return table


def matched_sources(costs: Costs, rows_per_block: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and the last source token that each target token is matched with, int64 [M].

    Every target token is matched; what is between first and last is matched too. Both are empty or -1 where one side
    has no tokens. `rows_per_block` trades memory for time and changes nothing.
    """
    size, width = len(costs), len(costs.target)
    first, last = np.full(width, -1, np.int64), np.full(width, -1, np.int64)
    if size == 0 or width == 0:
        return first, last
    block = rows_per_block or max(CELLS // width, isqrt(4 * size))  # rows of 4-byte numbers, blocks of bytes
    starts = range(0, size, block)
    above = _rows_above(costs, starts)
    i, j = size - 1, width - 1
    for start in reversed(starts):
        rows, table = costs.of_rows(start, i + 1)
        directions = np.empty((len(rows), j + 1), np.uint8)
        _directions(above.pop()[: j + 2], rows, table, costs.target, directions)
        i, j = _walk(directions, start, i, j, first, last)
    return first, last


def _rows_above(costs: Costs, starts: range) -> list[NDArray[Any]]:
    """Return the table's row before each block, with one entry before its first column."""
    most = (len(costs) + len(costs.target)) * costs.longest
    kind: type[np.signedinteger] = np.int32 if most < np.iinfo(np.int32).max // 2 else np.int64
    row = np.full(len(costs.target) + 1, np.iinfo(kind).max // 2, kind)
    row[0] = 0
    above = [row.copy()]
    for start, stop in pairwise(starts):
        _advance(row, *costs.of_rows(start, stop), costs.target)
        above.append(row.copy())
    return above


def _unique(pieces: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    numbers = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return list(numbers), np.array([numbers[piece] for piece in pieces], np.int64)


@numba.njit(cache=True, nogil=True)
def _advance(row, rows, table, columns):  # type: ignore[no-untyped-def]
    """Turn the row above a block into the block's last row."""
    never = np.iinfo(row.dtype).max // 2
    for r in rows:
        costs = table[r]
        diagonal, left = row[0], row.dtype.type(never)
        row[0] = never
        for j in range(len(columns)):
            up = row[j + 1]
            left = min(min(diagonal, up), left) + costs[columns[j]]
            row[j + 1] = left
            diagonal = up


@numba.njit(cache=True, nogil=True)
def _directions(row, rows, table, columns, directions):  # type: ignore[no-untyped-def]
    """Fill a block's directions, as far as the columns that are asked for; `row` is the row above it."""
    never = np.iinfo(row.dtype).max // 2
    for i in range(len(rows)):
        costs = table[rows[i]]
        diagonal, left = row[0], never
        row[0] = never
        for j in range(directions.shape[1]):
            up = row[j + 1]
            best, move = diagonal, DIAGONAL
            if up < best:
                best, move = up, UP
            if left < best:
                best, move = left, LEFT
            directions[i, j] = move
            left = best + costs[columns[j]]
            row[j + 1] = left
            diagonal = up


@numba.njit(cache=True, nogil=True)
def _walk(directions, start, i, j, first, last):  # type: ignore[no-untyped-def]
    """Go back through one block and note which source tokens each target token meets; return where it is left."""
    while i >= start:
        first[j] = i
        if last[j] < 0:
            last[j] = i
        if i == 0 and j == 0:
            break
        move = directions[i - start, j]
        i -= move != LEFT
        j -= move != UP
    return i, j
