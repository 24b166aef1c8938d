"""Chunks under check: some rows of a shard beside the same chunks of the shards it was made from."""

# legend: C chunks, N values of a list column

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

OWN = "own"  # the shard under check, beside the names of what it was made from


class Lists(NamedTuple):
    """A list column: chunk c has `values[offsets[c]:offsets[c+1]]`."""

    offsets: NDArray[np.int64]  # [C+1], from 0
    values: NDArray[Any]  # [N]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Values of each chunk, int64 [C]."""
        return np.diff(self.offsets)

    @property
    def chunk_of(self) -> NDArray[np.int64]:
        """The chunk of each value, int64 [N]."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def any(self, found_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say for each chunk whether it holds a value for which this is true, [C]."""
        running = np.concatenate([[0], np.cumsum(found_N)])
        return running[self.offsets[1:]] > running[self.offsets[:-1]]


class Problem(NamedTuple):
    """Something that is wrong with some chunks: what, and their row numbers in the batch."""

    what: str
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Chunks:
    """C chunks: a batch of the shard under check (`own`) and of each shard it is compared with, row by row."""

    batches: Mapping[str, pa.RecordBatch]
    rows: NDArray[np.int64]  # [C] row numbers in the batch that was read

    @staticmethod
    def of(batches: Mapping[str, pa.RecordBatch]) -> Chunks:
        return Chunks(batches, np.arange(batches[OWN].num_rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: str) -> bool:
        return name in self.batches

    def column(self, column: str, of: str = OWN) -> pa.Array:
        return self.batches[of].column(column)

    def numbers(self, column: str, of: str = OWN) -> NDArray[Any]:
        """Return a column of plain values, [C]."""
        return self.column(column, of).to_numpy(zero_copy_only=False)

    def lists(self, column: str, of: str = OWN) -> Lists:
        """Return a list column as flat arrays."""
        array = self.column(column, of)
        offsets = array.offsets.to_numpy().astype(np.int64)
        values = array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
        return Lists(offsets - offsets[0], values)

    def problem(self, what: str, bad_C: NDArray[np.bool_]) -> Problem:
        """Name what is wrong with the chunks for which `bad_C` is true."""
        return Problem(what, self.rows[np.asarray(bad_C, np.bool_)])

    def without(self, problems: Iterable[Problem]) -> Chunks:
        """Return the chunks that have none of the problems."""
        found = [problem.rows for problem in problems]
        good_C = ~np.isin(self.rows, np.concatenate(found)) if found else np.ones(len(self), np.bool_)
        if good_C.all():
            return self
        mask = pa.array(good_C)
        return Chunks({name: batch.filter(mask) for name, batch in self.batches.items()}, self.rows[good_C])


class Content(Protocol):
    """What the rows of one stage's shards must be."""

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        """Yield what is wrong with a batch of chunks; called with one batch after the other."""

    def counted(self) -> dict[str, int]:
        """Return what the shard's record must have counted, after its last batch."""

    def left_over(self) -> str | None:
        """Say what is missing after the last batch, None if nothing is."""


class Lane:
    """Rows of a shard, as many at a time as are asked for."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.RecordBatch | None = None

    def take(self, rows: int) -> pa.RecordBatch | None:
        """Return the next `rows` rows, fewer at the end, None after it."""
        parts, wanted = [], rows
        while wanted > 0:
            batch = self._left if self._left is not None else next(self._batches, None)
            self._left = None
            if batch is None:
                break
            parts.append(batch.slice(0, wanted))
            if batch.num_rows > wanted:
                self._left = batch.slice(wanted)
            wanted -= parts[-1].num_rows
        return pa.concat_batches(parts) if parts else None
