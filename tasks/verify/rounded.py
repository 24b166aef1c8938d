"""By how much stored probabilities may be off, and still be what was computed."""

# legend: P positions, N kept tokens of all

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.compact import WIDEST_STEP
from logitfuse.kernels.rounding import LOGPROB_FLOOR, LOGPROB_SHARE, MASS_FLOOR, MASS_SHARE, round_logprobs, round_mass

HALF_STEP = 2.0**-11  # a logarithm rounded to fp16 (align, fuse) is off by at most this share of itself
SLACK = 1e-4  # beside it: float32 sums over a whole vocabulary
COMPACT_SUM = 0.0052  # what the compact form may add to, or take from, a position's probabilities in all


@dataclass(frozen=True)
class Precision:
    """How exact the numbers of one captured shard are; `compact`: they are, or once were, in the compact form."""

    compact: bool = False

    def of_logprobs(self, logprobs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return by how many nats each may be off, any shape."""
        plain = np.maximum(LOGPROB_SHARE * np.abs(logprobs.astype(np.float64)), LOGPROB_FLOOR) * 1.01
        return plain + (WIDEST_STEP / 2 if self.compact else 0.0)

    def of_sums(self, moved_P: NDArray[np.float64], tail_P: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return by how much probabilities and tail together may be off, float64 [P].

        `moved_P` is the sum of p·|log p|, which is what a rounding of log p by a share of itself moves p by.
        """
        plain_P = 1.01 * LOGPROB_SHARE * moved_P + np.maximum(MASS_SHARE * tail_P.astype(np.float64), MASS_FLOOR)
        return plain_P + SLACK + (COMPACT_SUM if self.compact else 0.0)

    def unrounded_logprobs(self, logprobs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say which finite log-probabilities have more digits than are kept."""
        return np.zeros(logprobs.shape, np.bool_) if self.compact else _changed(round_logprobs(logprobs), logprobs)

    def unrounded_mass(self, mass: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say which finite masses have more digits than are kept."""
        return np.zeros(mass.shape, np.bool_) if self.compact else _changed(round_mass(mass), mass)


def not_logprobs(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which values cannot be logarithms of probabilities that are kept."""
    return ~np.isfinite(values) | (values > 0)


def _changed(rounded: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return (rounded != values) & np.isfinite(values)
