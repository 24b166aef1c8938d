"""Intervals of means over examples."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.bootstrap import ratio_interval
from logitfuse.kernels.means import mean_interval


@given(
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40), st.lists(st.floats(0, 1), min_size=1, max_size=9)
)
def test_the_value_is_the_plain_mean_of_means_and_lies_within(one: list[float], other: list[float]) -> None:
    tasks = [np.array(one), np.array(other)]
    found = mean_interval(tasks, draws=200)
    assert np.isclose(found.value, (np.mean(one) + np.mean(other)) / 2)
    assert (found.low <= found.value + 1e-9 and found.value <= found.high + 1e-9) or len(one) < 5


def test_one_task_is_as_wide_as_the_ratio_of_sums() -> None:
    scores = np.random.default_rng(1).integers(0, 2, 200).astype(float)
    assert np.allclose(mean_interval([scores]), ratio_interval(scores, np.ones(200)), atol=0.02)


def test_equal_models_differ_by_nothing_and_no_examples_are_no_number() -> None:
    assert mean_interval([np.zeros(5)]) == (0.0, 0.0, 0.0)
    assert np.isnan(mean_interval([])).all() and np.isnan(mean_interval([np.zeros(0)])).all()
