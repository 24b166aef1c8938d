"""One source's sparse distributions as the store keeps them: token ids and natural logarithms, never densified."""

# legend: T positions, N entries

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.runs import runs


@dataclass(frozen=True)
class Distributions:
    """T sparse distributions; row t is `ids[offsets[t]:offsets[t+1]]`, best first. An empty row serves nothing."""

    offsets: NDArray[np.int64]  # [T+1]
    ids: NDArray[np.int32]  # [N]
    logprobs: NDArray[np.float32]  # [N]
    mass: NDArray[np.float64]  # [T] kept probability; what it lacks to 1 was left out

    def __len__(self) -> int:
        return len(self.mass)

    @property
    def counts(self) -> NDArray[np.int32]:
        """Support size of each row, int32 [T]."""
        return np.diff(self.offsets).astype(np.int32)

    def take(self, start: int, stop: int) -> "Distributions":
        """Return rows start to stop."""
        first, last = self.offsets[start], self.offsets[stop]
        kept = slice(first, last)
        return Distributions(
            self.offsets[start : stop + 1] - first, self.ids[kept], self.logprobs[kept], self.mass[start:stop]
        )


def joined(parts: Sequence[Distributions]) -> Distributions:
    """Put several blocks of rows after one another."""
    bases = np.cumsum([0, *(part.offsets[-1] for part in parts)])
    offsets = [part.offsets[:-1] + base for part, base in zip(parts, bases, strict=False)]
    return Distributions(
        np.concatenate([*offsets, bases[-1:]]).astype(np.int64),
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.logprobs for part in parts]),
        np.concatenate([part.mass for part in parts]),
    )


def chosen_rows(sources: Sequence[Distributions], winner_T: NDArray[np.int32]) -> Distributions:
    """Copy row t of source `winner_T[t]`, an empty row where that is -1."""
    starts = runs(winner_T[None, :])
    return chosen_runs(sources, winner_T[starts[:-1]], starts)


def chosen_runs(
    sources: Sequence[Distributions], winner_R: NDArray[np.int32], starts: NDArray[np.int64]
) -> Distributions:
    """Copy rows starts[r] to starts[r+1] of source `winner_R[r]` as one, that many empty rows where that is -1."""
    bases = np.zeros(len(starts), np.int64)
    for s, source in enumerate(sources):
        _measure(s, winner_R, starts, source.offsets, bases)
    np.cumsum(bases, out=bases)
    offsets, mass = np.empty(starts[-1] + 1, np.int64), np.empty(starts[-1], np.float64)
    ids, logprobs = np.empty(bases[-1], np.int32), np.empty(bases[-1], np.float32)
    offsets[0] = 0
    _leave_empty(winner_R, starts, bases, offsets, mass)
    for s, source in enumerate(sources):
        offsets_of = (s, winner_R, starts, bases, source.offsets)
        _copy(*offsets_of, source.ids, source.logprobs, source.mass, offsets, ids, logprobs, mass)
    return Distributions(offsets, ids, logprobs, mass)


def half_precision(logprobs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round logarithms of probabilities to what fp16 can hold, as `to_half_precision` does, several times as fast.

    For logarithms that fp16 can hold, down to -65504; beyond they are not those of fp16.
    """
    bits = logprobs.view(np.uint32)
    rounded = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    found: NDArray[np.float32] = rounded.view(np.float32)
    near_zero = logprobs > -(2.0**-14)  # there fp16 steps by 2^-24, as float32 does next to a half
    found[near_zero] = (logprobs[near_zero] - np.float32(0.5)) + np.float32(0.5)
    return found


# legend: R runs of positions with one winner


@numba.njit(cache=True, nogil=True)
def _measure(s, winner_R, starts, offsets, bases):  # type: ignore[no-untyped-def]
    for r in range(len(winner_R)):
        if winner_R[r] == s:
            bases[r + 1] = offsets[starts[r + 1]] - offsets[starts[r]]


@numba.njit(cache=True, nogil=True)
def _leave_empty(winner_R, starts, bases, offsets, mass):  # type: ignore[no-untyped-def]
    for r in range(len(winner_R)):
        if winner_R[r] < 0:
            offsets[starts[r] + 1 : starts[r + 1] + 1] = bases[r]
            mass[starts[r] : starts[r + 1]] = 0.0


@numba.njit(cache=True, nogil=True)
def _copy(  # type: ignore[no-untyped-def]
    s, winner_R, starts, bases, offsets, ids, logprobs, mass, to_offsets, to_ids, to_logprobs, to_mass
):
    for r in range(len(winner_R)):
        if winner_R[r] != s:
            continue
        first, stop, base = starts[r], starts[r + 1], bases[r]
        begin, end = offsets[first], offsets[stop]
        for t in range(first, stop):
            to_offsets[t + 1] = offsets[t + 1] + (base - begin)
        _move(mass[first:stop], to_mass[first:])
        _move(ids[begin:end], to_ids[base:])
        _move(logprobs[begin:end], to_logprobs[base:])


@numba.njit(cache=True, nogil=True)
def _move(values, to):  # type: ignore[no-untyped-def]
    """Copy values; indices from 0 let the compiler move whole vectors, which it does not for slices."""
    for i in range(len(values)):
        to[i] = values[i]
