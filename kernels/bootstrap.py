"""Intervals for ratios of sums over documents (nats per byte), by resampling documents."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A value and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def ratio_interval(
    numerators_D: NDArray[np.float64], denominators_D: NDArray[np.float64], *, seed: int = 0, draws: int = 2000
) -> Interval:
    """Return sum(numerators) / sum(denominators) with its percentile interval over resampled documents D.

    The same seed draws the same documents, so intervals of several models on one text are paired.
    """
    total = denominators_D.sum()
    if total == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    D = len(numerators_D)
    chosen = np.random.default_rng(seed).multinomial(D, np.full(D, 1.0 / D), size=draws)
    tops, bottoms = chosen @ numerators_D, chosen @ denominators_D
    ratios = tops[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(numerators_D.sum() / total), float(low), float(high))
