"""Sparse next-token distributions: rows of (token id, probability), never densified."""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sparse:
    """T sparse distributions over a vocabulary; row t is `ids[offsets[t]:offsets[t+1]]`, best first.

    A row with no entries is a position that nothing serves. The mass a row lacks to 1 was left out.
    """

    offsets: NDArray[np.int64]  # [T+1]
    ids: NDArray[np.int32]  # [N]
    probs: NDArray[np.float64]  # [N]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int32]:
        """Support size of each row, int32 [T]."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def mass(self) -> NDArray[np.float64]:
        """Probability kept in each row, float64 [T]."""
        running = np.concatenate([[0.0], np.cumsum(self.probs)])
        sums = running[self.offsets[1:]] - running[self.offsets[:-1]]
        return np.where(self.counts > 0, np.clip(sums, 0.0, 1.0), 0.0)

    @staticmethod
    def from_counts(counts: NDArray, ids: NDArray, logprobs: NDArray) -> "Sparse":
        """Rebuild from the columns of a shard."""
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return Sparse(offsets, ids.astype(np.int32, copy=False), np.exp(logprobs.astype(np.float64)))

    @staticmethod
    def empty(rows: int) -> "Sparse":
        """Return `rows` distributions that hold nothing."""
        return Sparse(np.zeros(rows + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float64))

    def take(self, start: int, stop: int) -> "Sparse":
        """Return rows start to stop."""
        first, last = self.offsets[start], self.offsets[stop]
        return Sparse(self.offsets[start : stop + 1] - first, self.ids[first:last], self.probs[first:last])


def concatenate(parts: list[Sparse]) -> Sparse:
    """Put several blocks of rows after one another."""
    if not parts:
        return Sparse.empty(0)
    bases = np.cumsum([0] + [part.offsets[-1] for part in parts])
    offsets = [part.offsets[:-1] + base for part, base in zip(parts, bases, strict=False)]
    return Sparse(
        np.concatenate([*offsets, bases[-1:]]).astype(np.int64),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.probs for part in parts]),
    )


def rectangle(counts_T: NDArray[np.integer], values: NDArray, filling: float) -> NDArray:
    """Return flat rows of these lengths as [T, widest], rows that are shorter filled up; no copy where none is."""
    widest = int(counts_T.max(initial=0))
    if len(values) == widest * len(counts_T):
        return values.reshape(len(counts_T), widest)
    whole_TW = np.full((len(counts_T), widest), filling, values.dtype)
    whole_TW[np.arange(widest) < counts_T[:, None]] = values
    return whole_TW


def to_half_precision(logprobs: NDArray) -> NDArray[np.float32]:
    """Round to what fp16 can hold but keep float32: half the entropy at a KL error below 1e-6."""
    return np.asarray(logprobs, np.float32).astype(np.float16).astype(np.float32)


def row_sums(offsets: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of each row, float64 [T], each added up on its own: other rows change nothing in its last bits."""
    sums: NDArray[np.float64] = _row_sums(offsets, values)
    return sums


def log_softmax_rows(offsets: NDArray[np.int64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-softmax of each row of logits over its own entries, float64 [N]."""
    counts = np.diff(offsets)
    filled = np.flatnonzero(counts)
    if len(filled) == 0:
        return np.zeros(0, np.float64)
    highest = np.maximum.reduceat(logits, offsets[filled])
    shifted = logits - np.repeat(highest, counts[filled])
    return shifted - np.repeat(np.log(_row_sums(offsets, np.exp(shifted))[filled]), counts[filled])


@numba.njit(cache=True, nogil=True)
def _row_sums(offsets, values):  # type: ignore[no-untyped-def]
    sums = np.zeros(len(offsets) - 1, np.float64)
    for t in range(len(sums)):
        for i in range(offsets[t], offsets[t + 1]):
            sums[t] += values[i]
    return sums
