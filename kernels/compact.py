"""A smaller form of a capture's top-k: log-probabilities as numbers of steps, ids as ranks by frequency.

Legend: P positions, N kept tokens of all positions. Pure functions; storage/compact.py puts their results into Parquet.

**Log-probabilities.** A mistake δ in log p costs p·δ²/2 nats of KL divergence, so the step may grow as 1/sqrt(p)
until it reaches `WIDEST_STEP`: steps are even in sqrt(p) for likely tokens and even in log p for unlikely ones. Each
kept token and the tail then cost at most finest²/24 nats on average and finest²/8 at worst, and `finest` is chosen
such that k tokens, the most a position keeps, and the tail together keep within `MEAN_KL`. Values come best first, so
differences of step numbers along a position are never negative and small.

**Ids.** Each id becomes its place in a list of all ids that is kept sorted by how often each came so far, which
starts in id order. Writer and reader build the same list, so nothing but the places is stored, and they can be undone
exactly. Frequent tokens get small places whatever the size of the vocabulary.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
MEAN_KL = 4.5e-6  # nats per position, below the store's goal of 5e-6 by what comes from rounding before
WIDEST_STEP = 1 / 16  # nats: no log-probability is off by more than half of it
MOST_STEPS = 2**16 - 1  # two bytes of four; the others are zero and cost nothing


def finest_step(k: int) -> float:
    """Return the step, in nats, of a token that is certain, such that k tokens and the tail cost `MEAN_KL`."""
    return math.sqrt(24 * MEAN_KL / (k + 1))


def step_numbers(logprobs: NDArray[np.floating[Any]], finest: float) -> Ints:
    """Return the number of the step nearest to each log-probability: 0 for log p = 0, larger for less likely.

    Equal or falling values get equal or rising numbers. Raises `ValueError` for NaN and below about -3000 nats.
    """
    values = np.minimum(logprobs.astype(np.float64), 0.0)
    turn, steps_there = _turn(finest)
    with np.errstate(invalid="ignore"):
        fine = (1.0 - np.exp(np.maximum(values, turn) / 2)) * (2 / finest)
        numbers = np.rint(np.where(values >= turn, fine, steps_there + (turn - values) / WIDEST_STEP))
    if not (numbers <= MOST_STEPS).all():  # also where it is NaN
        raise ValueError(f"log-probabilities must lie between about -3000 and 0; least is {logprobs.min()}")
    return numbers.astype(np.int32)


def step_values(numbers: NDArray[np.integer[Any]], finest: float) -> NDArray[np.float32]:
    """Return the log-probabilities that step numbers stand for."""
    turn, steps_there = _turn(finest)
    steps = numbers.astype(np.float64)
    fine = 2 * np.log1p(-np.minimum(steps, steps_there) * (finest / 2))
    return np.where(steps <= steps_there, fine, turn - (steps - steps_there) * WIDEST_STEP).astype(np.float32)


def _turn(finest: float) -> tuple[float, float]:
    """Return the log-probability from which steps are `WIDEST_STEP` wide, and its step number (not a whole one)."""
    turn = -2 * math.log(WIDEST_STEP / finest)
    return turn, (1 - finest / WIDEST_STEP) * (2 / finest)


def differences(numbers_N: Ints, counts_P: Ints) -> Ints:
    """Return each position's first step number and how much each later one adds to the one before it.

    `counts_P` says how many numbers belong to each position, in order. Raises `ValueError` where a position's numbers
    fall, because its tokens were not best first.
    """
    added_N = np.diff(numbers_N, prepend=np.int32(0))
    first_N = _firsts(counts_P)
    added_N[first_N] = numbers_N[first_N]
    if (added_N < 0).any():
        position = np.searchsorted(np.cumsum(counts_P), int(np.argmax(added_N < 0)), side="right")
        raise ValueError(f"position {int(position)} does not hold its likeliest tokens first")
    return added_N


def sums(added_N: Ints, counts_P: Ints) -> Ints:
    """Undo `differences`."""
    running_N = np.cumsum(added_N, dtype=np.int64)
    first_N = _firsts(counts_P)
    before_N = np.repeat(running_N[first_N] - added_N[first_N], counts_P[counts_P > 0])
    return (running_N - before_N).astype(np.int32)


def _firsts(counts_P: Ints) -> NDArray[np.int64]:
    """Return the place of the first number of each position that has any."""
    filled_P = counts_P[counts_P > 0].astype(np.int64)
    return np.cumsum(filled_P) - filled_P


def frequency_ranks(ids_N: Ints) -> Ints:
    """Return the place of each id in the list of all ids, sorted by how often each came before it.

    The list starts in id order. An id that comes rises to the front of those that came as often before; the one that
    stood there takes its place. Undone by `ids_of_ranks`.
    """
    if not len(ids_N):
        return np.zeros(0, np.int32)
    if ids_N.min() < 0:
        raise ValueError(f"ids must not be negative; one is {ids_N.min()}")
    return _ranks(np.ascontiguousarray(ids_N, np.int32), int(ids_N.max()) + 1)


def ids_of_ranks(ranks_N: Ints) -> Ints:
    """Undo `frequency_ranks`. The largest id stands at its own place when it first comes, so ranks tell the size."""
    if not len(ranks_N):
        return np.zeros(0, np.int32)
    return _ids(np.ascontiguousarray(ranks_N, np.int32), int(ranks_N.max()) + 1)


@numba.njit(cache=True)
def _rise(place: int, order: Ints, places: Ints, counts: Ints, fronts: Ints) -> None:
    """Count the id at `place` once more. `fronts[c]` is the first place of those that came c times."""
    token = order[place]
    front = fronts[counts[token]]
    other = order[front]
    order[place], places[other] = other, place
    order[front], places[token] = token, front
    fronts[counts[token]] += 1
    counts[token] += 1
    if fronts[counts[token]] > front:  # nobody came so often before
        fronts[counts[token]] = front


@numba.njit(cache=True)
def _ranks(ids_N: Ints, size: int) -> Ints:
    order, places, counts = np.arange(size, dtype=np.int32), np.arange(size, dtype=np.int32), np.zeros(size, np.int32)
    fronts = np.full(len(ids_N) + 2, size, np.int32)
    fronts[0] = 0
    ranks_N = np.empty_like(ids_N)
    for n in range(len(ids_N)):
        ranks_N[n] = places[ids_N[n]]
        _rise(ranks_N[n], order, places, counts, fronts)
    return ranks_N


@numba.njit(cache=True)
def _ids(ranks_N: Ints, size: int) -> Ints:
    order, places, counts = np.arange(size, dtype=np.int32), np.arange(size, dtype=np.int32), np.zeros(size, np.int32)
    fronts = np.full(len(ranks_N) + 2, size, np.int32)
    fronts[0] = 0
    ids_N = np.empty_like(ranks_N)
    for n in range(len(ranks_N)):
        ids_N[n] = order[ranks_N[n]]
        _rise(ranks_N[n], order, places, counts, fronts)
    return ids_N
