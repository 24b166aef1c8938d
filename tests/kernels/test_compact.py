"""The compact codec's kernels: each fast one against the plainest reference, and what is lost is what is promised."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from logitfuse.kernels.compact import (
    MEAN_KL,
    WIDEST_STEP,
    differences,
    finest_step,
    frequency_ranks,
    ids_of_ranks,
    step_numbers,
    step_values,
    sums,
)

SEVERAL_K = [1, 2, 10, 32, 64, 512]


def ranks_reference(ids: list[int]) -> list[int]:
    """A list and a search: what `frequency_ranks` says in words."""
    order, counts, ranks = list(range(max(ids, default=-1) + 1)), dict.fromkeys(ids, 0), []
    for token in ids:
        place = order.index(token)
        front = next(p for p, other in enumerate(order) if counts.get(other, 0) == counts[token])
        ranks.append(place)
        order[place], order[front] = order[front], order[place]
        counts[token] += 1
        assert all(counts.get(a, 0) >= counts.get(b, 0) for a, b in pairwise(order))
    return ranks


@given(st.lists(st.integers(0, 12), max_size=60) | st.lists(st.integers(0, 300), max_size=40))
def test_ranks_are_the_reference_and_can_be_undone(ids: list[int]) -> None:
    ranks = frequency_ranks(np.array(ids, np.int32))
    assert ranks.tolist() == ranks_reference(ids)
    assert ids_of_ranks(ranks).tolist() == ids


def test_ids_of_a_real_size_come_back() -> None:
    ids = np.minimum(np.random.default_rng(0).zipf(1.2, 50_000), 262_143).astype(np.int32)
    ranks = frequency_ranks(ids)
    np.testing.assert_array_equal(ids_of_ranks(ranks), ids)
    assert np.median(ranks) <= np.median(ids)
    with pytest.raises(ValueError, match="negative"):
        frequency_ranks(np.array([3, -1], np.int32))


@pytest.mark.parametrize("k", SEVERAL_K)
def test_steps_are_even_in_the_root_of_p_then_in_its_logarithm(k: int) -> None:
    finest = finest_step(k)
    numbers = np.arange(6000, dtype=np.int32)
    values = step_values(numbers, finest).astype(np.float64)
    np.testing.assert_array_equal(step_numbers(values, finest), numbers)  # what was rounded stays where it is
    assert values[0] == 0.0 and (np.diff(values) < 0).all() and values[-1] > -400
    steps = -np.diff(values)
    allowed = np.minimum(finest * np.exp(-values[1:] / 2), WIDEST_STEP)
    assert (steps <= allowed * (1 + 1e-3)).all()


@pytest.mark.parametrize("k", SEVERAL_K)
@given(values=hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-2900, 0, width=32)))
def test_no_logprob_moves_by_more_than_half_a_step(k: int, values: np.ndarray) -> None:
    read = step_values(step_numbers(values, finest_step(k)), finest_step(k))
    assert (np.abs(read - values.astype(np.float64)) <= WIDEST_STEP / 2 * 1.01 + 1e-3 * (values < -1000)).all()
    order = np.argsort(-values, kind="stable")
    assert (np.diff(read[order]) <= 0).all(), "the order was not kept"


@pytest.mark.parametrize("bad", [np.nan, -np.inf, -1e5])
def test_what_has_no_step_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="between about -3000 and 0"):
        step_numbers(np.array([-1.0, bad], np.float32), finest_step(10))


def test_a_little_above_zero_is_zero() -> None:
    assert step_numbers(np.array([1e-7], np.float32), finest_step(10)).tolist() == [0]


@given(st.lists(st.lists(st.integers(0, 60_000), max_size=6).map(sorted), max_size=8))
def test_differences_can_be_undone(positions: list[list[int]]) -> None:
    """Also where positions hold different numbers of tokens, or none."""
    counts = np.array([len(numbers) for numbers in positions], np.int32)
    numbers = np.array([number for numbers in positions for number in numbers], np.int32)
    added = differences(numbers, counts)
    assert added.tolist() == [b - a for numbers in positions for a, b in pairwise([0, *numbers])]
    np.testing.assert_array_equal(sums(added, counts), numbers)


def test_positions_that_are_not_best_first_are_refused() -> None:
    with pytest.raises(ValueError, match="position 2 does not hold its likeliest tokens first"):
        differences(np.array([1, 2, 5, 4], np.int32), np.array([2, 0, 2], np.int32))


@pytest.mark.parametrize("k", SEVERAL_K)
@pytest.mark.parametrize("concentration", [0.05, 0.5, 5.0])
def test_the_divergence_keeps_to_its_bounds(k: int, concentration: float) -> None:
    probs = np.random.default_rng(k).dirichlet(np.full(k + 1, concentration), 2000).clip(1e-30)
    probs /= probs.sum(axis=1, keepdims=True)
    read = np.exp(step_values(step_numbers(np.log(probs), finest_step(k)), finest_step(k)).astype(np.float64))
    whole = read.sum(axis=1)
    divergence = (probs * np.log(probs * whole[:, None] / read)).sum(axis=1)
    assert divergence.mean() <= MEAN_KL * 1.05
    assert divergence.max() <= 3 * MEAN_KL * 1.1, "half a step everywhere is three times the mean"
    assert np.abs(whole - 1).max() <= np.sqrt(24 * MEAN_KL) / 2 * 1.01
