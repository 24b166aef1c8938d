"""How many times the tokens plain training needs to come to the loss of another recipe."""

# legend: P points of the curve, R draws

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def token_multiple(
    tokens_P: NDArray[np.float64], losses_P: NDArray[np.float64], reached: float, tokens: float
) -> float:
    """Return at which multiple of `tokens` the curve first comes down to the loss `reached`.

    The curve is linear in log tokens between its points, whose tokens rise. Outside of it nothing is guessed: 0 if
    its first point is there already, infinity if its last is not. Raises `ValueError` for fewer than two points.
    """
    if len(tokens_P) < 2 or np.any(np.diff(tokens_P) <= 0):
        raise ValueError("a curve needs at least two points, in the order of their tokens")
    if reached == losses_P[0]:
        return float(tokens_P[0] / tokens)
    if reached > losses_P[0]:
        return 0.0
    below = np.flatnonzero(losses_P <= reached)
    if not below.size:
        return math.inf
    after = int(below[0])
    before, ratio = after - 1, tokens_P[after] / tokens_P[after - 1]
    share = (losses_P[before] - reached) / (losses_P[before] - losses_P[after])
    return float(tokens_P[before] * ratio**share / tokens)


def multiple_interval(multiples_R: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% percentile interval; an end that lies outside of the curve is 0 or infinity."""
    ordered = np.sort(multiples_R)
    last = len(ordered) - 1
    return float(ordered[math.floor(0.025 * last)]), float(ordered[math.ceil(0.975 * last)])
