"""Rounding for the store: idempotent, monotone, within its bounds, and few digits left."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from logitfuse.kernels.rounding import (
    LOGPROB_BITS,
    LOGPROB_FINEST,
    LOGPROB_FLOOR,
    LOGPROB_SHARE,
    MASS_BITS,
    MASS_FINEST,
    MASS_FLOOR,
    MASS_SHARE,
    round_logprobs,
    round_mass,
)

KINDS = {
    "logprobs": (round_logprobs, LOGPROB_SHARE, LOGPROB_FLOOR),
    "mass": (round_mass, MASS_SHARE, MASS_FLOOR),
}
Kind = tuple[Callable[[np.ndarray], np.ndarray], float, float]


def numbers(kind: str) -> st.SearchStrategy[np.ndarray]:
    """Values of a kind at all scales, the smallest float32 ones among them."""
    sign = -1 if kind == "logprobs" else 1
    scales = st.floats(0, 3000 if kind == "logprobs" else 1, width=32) | st.floats(0, 2.0**-12, width=32)
    return hnp.arrays(np.float32, st.integers(0, 40), elements=scales).map(lambda values: sign * values)


def reference(value: float, bits: int, finest: float) -> float:
    """The multiple of the step nearest to a value: in exact arithmetic, one value at a time."""
    step = finest
    while abs(value) >= step * 2 ** (bits + 1):
        step *= 2
    return round(value / step) * step


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_it_is_the_reference_within_its_bounds(kind: str, data: st.DataObject) -> None:
    values = data.draw(numbers(kind))
    rounding, share, floor = KINDS[kind]
    found = rounding(values)
    bits, finest = (LOGPROB_BITS, LOGPROB_FINEST) if kind == "logprobs" else (MASS_BITS, MASS_FINEST)
    assert found.dtype == np.float32 and found.shape == values.shape
    assert found.tolist() == [reference(float(value), bits, finest) for value in values]
    error = np.abs(found.astype(np.float64) - values)
    assert (error <= np.maximum(share * np.abs(values.astype(np.float64)), floor)).all()
    np.testing.assert_array_equal(rounding(found), found)
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= 0).all(), "what was equal or more became less"
    assert ((found >= 0) & (found <= 1)).all() if kind == "mass" else (found <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_and_zero_has_no_sign(kind: str) -> None:
    payload = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32).view(np.float32)
    found = KINDS[kind][0](np.concatenate([payload, np.array([-np.inf, np.inf, -0.0, -1e-12, 0.0], np.float32)]))
    assert np.isnan(found[:3]).all()
    assert found[3:5].tolist() == [-np.inf, np.inf]
    assert found[5:].tolist() == [0, 0, 0] and not np.signbit(found[5:]).any()


def test_shapes_and_other_types_are_taken() -> None:
    assert round_logprobs(np.full((2, 3), -1.0, np.float64)).shape == (2, 3)
    assert round_mass(0.5) == 0.5


def test_nearly_half_of_the_bits_are_zero() -> None:
    """What makes it small: 14 of a float32's 32 bits."""
    values = -np.random.default_rng(0).gamma(2, 2, 10_000).astype(np.float32)
    assert not (round_logprobs(values).view(np.uint32) & 0x3FFF).any()
    assert not (round_mass(np.exp(values)).view(np.uint32) & 0x7FFF).any()


@pytest.mark.parametrize("concentration", [0.05, 0.5, 5.0])
def test_the_divergence_is_far_below_the_stores_goal(concentration: float) -> None:
    probs = np.random.default_rng(0).dirichlet(np.full(11, concentration), 4000).clip(1e-30)
    probs /= probs.sum(axis=1, keepdims=True)
    read = np.exp(round_logprobs(np.log(probs[:, :10])).astype(np.float64))
    read = np.column_stack([read, np.maximum(round_mass(probs[:, 10]), 1e-30)])
    read /= read.sum(axis=1, keepdims=True)
    assert (probs * np.log(probs / read)).sum(axis=1).mean() < 7e-7
