"""Which sequences every optimiser step learns from: fixed by the seed, the same for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from logitfuse.tasks.training.settings import TrainSettings

Windows = NDArray[np.int64]


class StepPlan:
    """The sequences of each step. The step's number is the whole position in the order, so resuming skips nothing.

    Row groups are put in random order and cut into pools of `shuffle_rows`; sequences are shuffled within a pool.
    So the order is random over the corpus while only a pool's row groups are needed at a time. The epochs follow
    one another without a border: only the very last step can be short.
    """

    def __init__(self, lengths: NDArray[np.int32], groups: NDArray[np.int32], settings: TrainSettings) -> None:
        """`lengths` and `groups` give each sequence's tokens and row group, row groups in ascending order."""
        self._lengths = lengths
        self._settings = settings
        epochs = [epoch_order(groups, settings, epoch) for epoch in range(settings.epochs)]
        self._order = np.concatenate(epochs)
        self._borders = _step_borders(lengths[self._order], settings)[: _most_borders(settings)]
        self._sequences = len(lengths)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._borders) - 1

    def step(self, number: int) -> Windows:
        """Return the sequences of step `number` (from 0), longest first."""
        windows = self._order[self._borders[number] : self._borders[number + 1]]
        return windows[np.argsort(-self._lengths[windows], kind="stable")]

    def epoch(self, number: int) -> int:
        """Return the epoch (from 0) in which a step begins."""
        return int(self._borders[number] // self._sequences)

    def tokens(self, number: int) -> int:
        """Return the positions of a step over all processes."""
        return int(self._lengths[self.step(number)].sum())

    def micro_batches(self, number: int, rank: int, processes: int) -> list[Windows]:
        """Return what one process computes in a step, in batches of bounded padded size.

        Every process gets every `processes`-th sequence by length, so all have about as much to do. All get
        the same number of batches (some may be empty), because collective operations must match.
        """
        windows = self.step(number)
        shares = [
            list(_packed(windows[r::processes], self._lengths, self._settings.micro_batch_tokens))
            for r in range(processes)
        ]
        most = max(len(share) for share in shares)
        empty = np.empty(0, dtype=np.int64)
        return shares[rank] + [empty] * (most - len(shares[rank]))


def epoch_order(groups: NDArray[np.int32], settings: TrainSettings, epoch: int) -> Windows:
    """Return all sequences in the order of an epoch."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    shuffled = np.argsort(_random_keys(np.arange(len(starts)), settings.seed, 2 * epoch), kind="stable")
    pool_of_group = np.empty(len(starts), dtype=np.int64)
    pool_of_group[shuffled] = (np.cumsum(sizes[shuffled]) - sizes[shuffled]) // settings.shuffle_rows
    keys = _random_keys(np.arange(len(groups)), settings.seed, 2 * epoch + 1)
    return np.lexsort((keys, np.repeat(pool_of_group, sizes)))


def _random_keys(numbers: Windows, seed: int, stream: int) -> NDArray[np.uint64]:
    """Return a random key for each number (SplitMix64). numpy's generators may change with its version."""
    with np.errstate(over="ignore"):
        offset = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream) * np.uint64(0xD1B54A32D192ED03)
        keys = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _mixed(np.array([offset]))
        return _mixed(keys)


def _mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _step_borders(lengths: NDArray[np.int32], settings: TrainSettings) -> Windows:
    """Return where each step begins in the order, and its end."""
    count = len(lengths)
    if settings.sequences_per_step:
        return np.append(np.arange(0, count, settings.sequences_per_step), count)
    tokens = np.cumsum(lengths, dtype=np.int64)
    borders = [0]
    while borders[-1] < count:
        before = tokens[borders[-1] - 1] if borders[-1] else 0
        end = int(np.searchsorted(tokens, before + settings.tokens_per_step, side="right"))
        borders.append(max(end, borders[-1] + 1))
    return np.array(borders)


def _most_borders(settings: TrainSettings) -> int | None:
    return settings.max_steps + 1 if settings.max_steps else None


def _packed(windows: Windows, lengths: NDArray[np.int32], tokens: int) -> Iterator[Windows]:
    """Cut sequences, longest first, into batches whose padded size stays below `tokens` where one fits."""
    start = 0
    while start < len(windows):
        size = max(1, tokens // int(lengths[windows[start]]))
        yield windows[start : start + size]
        start += size
