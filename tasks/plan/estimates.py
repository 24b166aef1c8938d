"""Numbers that were not counted but sampled: each with its 95% interval."""

# legend: B blocks of a sample

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z = 1.96  # standard errors on either side of a 95% interval


class Estimate(NamedTuple):
    """A value and the bounds of its 95% interval, which are the value itself where it was counted."""

    value: float
    low: float
    high: float

    @property
    def exact(self) -> bool:
        return self.low == self.value == self.high

    @property
    def relative(self) -> float:
        """Half the interval as a share of the value: 0.02 is ± 2%."""
        return (self.high - self.low) / 2 / self.value if self.value else 0.0

    def times(self, factor: float) -> Estimate:
        """Return the estimate of something in proportion to it."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, amount: float) -> Estimate:
        """Return the estimate of it and a known amount."""
        return Estimate(self.value + amount, self.low + amount, self.high + amount)


def exact(value: float) -> Estimate:
    """Return what was counted."""
    return Estimate(float(value), float(value), float(value))


def summed(estimates: Iterable[Estimate]) -> Estimate:
    """Add estimates that rest on the same sample: their errors go together, so the bounds are added too."""
    found = list(estimates)
    return Estimate(*(sum(part) for part in zip(*found, strict=True))) if found else exact(0)


def independent(estimates: Iterable[Estimate]) -> Estimate:
    """Add estimates from separate samples: their errors are added as squares."""
    found = list(estimates)
    value = sum(one.value for one in found)
    half = math.sqrt(sum(((one.high - one.low) / 2) ** 2 for one in found))
    return Estimate(value, max(0.0, value - half), value + half) if half else exact(value)


def ratio_total(amounts_B: NDArray[np.float64], sizes_B: NDArray[np.float64], whole: float) -> Estimate:
    """Estimate the amount in all of something of size `whole` from blocks of it: the ratio estimator.

    The interval is 1.96 standard errors of the linearised ratio (Cochran, Sampling Techniques, 1977, section 6.4), with
    the correction for a finite whole. A single block tells nothing of the spread: then it reaches from 0 to twice the
    value. Where the blocks are the whole, the sum is exact.
    """
    read = float(sizes_B.sum())
    if read >= whole:
        return exact(float(amounts_B.sum()))
    if read <= 0:
        return exact(0)
    B, ratio = len(sizes_B), float(amounts_B.sum()) / read
    value = ratio * whole
    if B < 2:
        return Estimate(value, 0.0, 2 * value)
    residual = float(((amounts_B - ratio * sizes_B) ** 2).sum()) * B / (B - 1)
    half = Z * whole / read * math.sqrt(residual * (1 - read / whole))
    return Estimate(value, max(0.0, value - half), value + half)
