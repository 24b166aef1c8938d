"""How far the store may be off by its codec alone: what plain shards round, what compact ones round once more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.compact import WIDEST_STEP, finest_step
from logitfuse.kernels.rounding import LOGPROB_BITS, LOGPROB_FINEST, MASS_FLOOR, MASS_SHARE

UNIFORM = 1 / 3  # variance of an error that is even over ± h, in h²


@dataclass(frozen=True)
class Rounding:
    """What a shard's codec does to numbers; `most`: the tokens for which a compact shard's steps were chosen."""

    most: int | None = None  # None: a plain shard

    def of_kept(self, logprobs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return by how much stored log-probabilities of kept tokens may be off, in nats."""
        values = np.asarray(logprobs, np.float64)
        compact = self._half_steps(values)
        _, exponents = np.frexp(np.abs(values) + compact)  # in [2^(e-1), 2^e): what it was when digits were taken away
        return np.maximum(np.ldexp(0.5, exponents - 1 - LOGPROB_BITS), LOGPROB_FINEST / 2) + compact

    def of_rest(self, mass: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return by how much the logarithm of the mass outside the kept tokens may be off, in nats."""
        with np.errstate(divide="ignore"):
            logs = np.log(np.asarray(mass, np.float64))
        return np.minimum(MASS_SHARE + MASS_FLOOR * np.exp(-logs.clip(-60)), 1) + self._half_steps(logs)

    def _half_steps(self, logs: NDArray[np.float64]) -> NDArray[np.float64] | float:
        """Return half a compact shard's step, even in the square root of the probability until it is as wide as any."""
        if self.most is None:
            return 0.0
        finest = finest_step(self.most)
        return np.minimum(finest * np.exp(-logs.clip(-60, 0) / 2) * (1 + finest), WIDEST_STEP) / 2
