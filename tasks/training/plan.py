"""Which sequences every optimiser step learns from: fixed by the seed, the same for any number of processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from logitfuse.tasks.training.best_fit import best_fit
from logitfuse.tasks.training.settings import TrainSettings

Windows = NDArray[np.int64]
EPOCHS_IN_MEMORY = 2  # a step may reach into the next one


class StepPlan:
    """The sequences of each step. The step's number is the whole position in the order, so resuming skips nothing.

    Row groups are put in random order and cut into pools of `shuffle_rows`; sequences are shuffled within a pool.
    So the order is random over the corpus while only a pool's row groups are needed at a time. The epochs follow
    one another without a border: only the very last step can be short. Memory does not grow with the epochs, and any
    step is as near as the first.
    """

    def __init__(
        self, lengths: NDArray[np.int32], groups: NDArray[np.int32], settings: TrainSettings, *, packed: bool = False
    ) -> None:
        """`lengths` and `groups` give each sequence's tokens and row group, row groups in ascending order.

        `packed`: batches are rows of sequences one after another, else sequences of like length to be padded.
        """
        self._lengths, self._groups = lengths, groups
        self._settings, self._packed = settings, packed
        self._orders: OrderedDict[int, NDArray[np.int32]] = OrderedDict()
        self._borders = self._step_borders()

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._borders) - 1

    def step(self, number: int) -> Windows:
        """Return the sequences of step `number` (from 0), longest first."""
        windows = self._between(int(self._borders[number]), int(self._borders[number + 1]))
        return windows[np.argsort(-self._lengths[windows], kind="stable")]

    def epoch(self, number: int) -> int:
        """Return the epoch (from 0) in which a step begins."""
        return int(self._borders[number] // len(self._lengths))

    def tokens(self, number: int) -> int:
        """Return the positions of a step over all processes."""
        return int(self._lengths[self.step(number)].sum())

    def micro_batches(self, number: int, rank: int, processes: int) -> list[Windows]:
        """Return what one process computes in a step, in batches of bounded size.

        Every process gets every `processes`-th sequence by length, so all have about as much to do. All get
        the same number of batches (some may be empty), because collective operations must match.
        """
        windows = self.step(number)
        shares = [self._batches(windows[r::processes]) for r in range(processes)]
        most = max(len(share) for share in shares)
        empty = np.empty(0, dtype=np.int64)
        return shares[rank] + [empty] * (most - len(shares[rank]))

    def _batches(self, windows: Windows) -> list[Windows]:
        """Cut a process's share of a step, longest first, into batches."""
        tokens = self._settings.micro_batch_tokens
        if self._packed:
            return [windows[row] for row in best_fit(self._lengths[windows].tolist(), tokens)]
        return list(_padded(windows, self._lengths, tokens))

    def _between(self, start: int, end: int) -> Windows:
        """Return places `start` to `end` of the order of all epochs."""
        size = len(self._lengths)
        parts = [
            self._order(epoch)[max(start - epoch * size, 0) : end - epoch * size]
            for epoch in range(start // size, -(-end // size))
        ]
        return np.concatenate(parts).astype(np.int64)

    def _order(self, epoch: int) -> NDArray[np.int32]:
        if epoch not in self._orders:
            self._orders[epoch] = epoch_order(self._groups, self._settings, epoch).astype(np.int32)
            while len(self._orders) > EPOCHS_IN_MEMORY:
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def _step_borders(self) -> Windows:
        """Return where each step begins in the order of all epochs, and its end."""
        settings, size = self._settings, len(self._lengths)
        total = size * settings.epochs
        if settings.sequences_per_step:
            borders = np.append(np.arange(0, total, settings.sequences_per_step), total)
            return borders[: settings.max_steps + 1] if settings.max_steps else borders
        found, open_lengths = [0], self._lengths[:0]
        for epoch in range(settings.epochs):
            lengths = np.concatenate([open_lengths, self._lengths[self._order(epoch)]])
            closed = _full_steps(lengths, settings.tokens_per_step)
            found += [(epoch + 1) * size - len(lengths) + end for end in closed]
            open_lengths = lengths[closed[-1] if closed else 0 :]
            if settings.max_steps and len(found) > settings.max_steps:
                return np.array(found[: settings.max_steps + 1])
        return np.array(found + [total] if found[-1] < total else found)


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


def _full_steps(lengths: NDArray[np.int32], tokens_per_step: int) -> list[int]:
    """Return where each step ends that the sequence after it does not fit into; what is left over is still open."""
    tokens = np.cumsum(lengths, dtype=np.int64)
    ends, before = [0], 0
    while True:
        end = max(int(np.searchsorted(tokens, before + tokens_per_step, side="right")), ends[-1] + 1)
        if end >= len(lengths):
            return ends[1:]
        ends.append(end)
        before = int(tokens[end - 1])


def _padded(windows: Windows, lengths: NDArray[np.int32], tokens: int) -> Iterator[Windows]:
    """Cut sequences, longest first, into batches whose padded size stays below `tokens` where one fits."""
    start = 0
    while start < len(windows):
        size = max(1, tokens // int(lengths[windows[start]]))
        yield windows[start : start + size]
        start += size
