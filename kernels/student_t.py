"""Student's t over a few paired runs: probabilities in closed form, intervals of a mean, a test against zero."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.bootstrap import Interval


def t_inside(t: float, df: int) -> float:
    """Return P(|T| <= t) for a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    if df < 1 or t < 0:
        raise ValueError(f"t must not be negative ({t}), and degrees of freedom are at least 1 ({df})")
    angle = math.atan2(t, math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term, total = (cosine if odd else 1.0), 0.0
    for n in range(odd + 2, df + 1, 2):
        total += term
        term *= cosine * cosine * (n - 1) / n
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(inside: float, df: int) -> float:
    """Return the t within whose bounds, on either side of zero, a share `inside` of the distribution lies."""
    if not 0 <= inside < 1:
        raise ValueError(f"the share must be at least 0 and less than 1, not {inside}")
    high = 1.0
    while t_inside(high, df) < inside:
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_inside(middle, df) < inside else (low, middle)
    return high


def mean_interval(values_S: NDArray[np.float64], *, inside: float = 0.95) -> Interval | None:
    """Return the mean of S independent values and its t interval; None for fewer than two, which have none."""
    S = len(values_S)
    if S < 2:
        return None
    reach = t_quantile(inside, S - 1) * float(values_S.std(ddof=1)) / math.sqrt(S)
    mean = float(values_S.mean())
    return Interval(mean, mean - reach, mean + reach)


def t_test(values_S: NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of the mean of S values being zero; None for fewer than two."""
    S = len(values_S)
    if S < 2:
        return None
    spread = float(values_S.std(ddof=1)) / math.sqrt(S)
    if spread == 0:
        return 1.0 if values_S.mean() == 0 else 0.0
    return 1 - t_inside(abs(float(values_S.mean())) / spread, S - 1)
