"""Estimates from blocks: exact where all is read, honest about their error where it is not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.tasks.plan.estimates import exact, independent, ratio_total, summed

AMOUNTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(1, 1e6)), min_size=2, max_size=30)


@given(AMOUNTS)
def test_all_of_it_is_counted(pairs: list[tuple[float, float]]) -> None:
    amounts, sizes = np.array(pairs).T
    found = ratio_total(amounts, sizes, float(sizes.sum()))
    assert found.exact and found.value == pytest.approx(amounts.sum())


@given(AMOUNTS, st.floats(1.5, 100))
def test_the_value_lies_within_its_interval_and_grows_with_the_whole(
    pairs: list[tuple[float, float]], times: float
) -> None:
    amounts, sizes = np.array(pairs).T
    found = ratio_total(amounts, sizes, float(sizes.sum()) * times)
    assert found.value == pytest.approx(amounts.sum() * times)
    assert 0 <= found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(50, 150, 400)
    amounts = sizes * rng.gamma(4, 0.1, 400)
    held = 0
    for _ in range(400):
        chosen = rng.choice(400, 40, replace=False)
        found = ratio_total(amounts[chosen], sizes[chosen], float(sizes.sum()))
        held += found.low <= amounts.sum() <= found.high
    assert 0.90 <= held / 400 <= 0.985


def test_one_block_says_nothing_of_the_spread() -> None:
    found = ratio_total(np.array([10.0]), np.array([2.0]), 8.0)
    assert (found.low, found.value, found.high) == (0, 40, 80)
    assert ratio_total(np.array([]), np.array([]), 8.0).value == 0


def test_sums_keep_their_errors() -> None:
    one = ratio_total(np.array([1.0, 3.0]), np.array([1.0, 1.0]), 20.0)
    assert summed([one, one]).high - summed([one, one]).low == pytest.approx(2 * (one.high - one.low))
    assert one.low > 0
    two = independent([one, one])
    assert (two.high - two.low) ** 2 == pytest.approx(2 * (one.high - one.low) ** 2)
    assert independent([exact(2), exact(3)]) == exact(5) and summed([]) == exact(0)
