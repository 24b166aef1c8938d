"""How finely a capture keeps probabilities: rounded float32 numbers, whose zero bits cost nothing on the disk.

Rounding log p by δ costs p·δ²/2 nats of KL divergence, so a step relative to log p is fine where p is large. Nine bits
of log p cost about 2e-7 nats a position, a fifth of what the store may lose, and 1.3 bytes less than fp16's ten at ten
tokens a position; eight would use the allowance up. Near 0 the step stays the same: a token of probability 0.99999
needs no more digits than one of 0.99, and a confident model's numbers would otherwise be the dearest.

Both functions: equal to themselves when applied twice, monotone, the error at most max(share·|x|, floor).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LOGPROB_BITS, LOGPROB_FINEST = 9, 2.0**-16  # binary digits after the first; the smallest step, in nats
MASS_BITS, MASS_FINEST = 8, 2.0**-24  # a float32 sum over a vocabulary is no better than its smallest step
LOGPROB_SHARE, LOGPROB_FLOOR = 2.0 ** -(LOGPROB_BITS + 1), LOGPROB_FINEST / 2
MASS_SHARE, MASS_FLOOR = 2.0 ** -(MASS_BITS + 1), MASS_FINEST / 2


def round_logprobs(values: ArrayLike) -> NDArray[np.float32]:
    """Round log-probabilities, in nats, any shape; NaN and infinite ones stay, -0 becomes 0."""
    return _rounded(values, LOGPROB_BITS, LOGPROB_FINEST)


def round_mass(values: ArrayLike) -> NDArray[np.float32]:
    """Round probabilities, such as the mass outside the kept tokens, any shape; what is in [0, 1] stays there."""
    return _rounded(values, MASS_BITS, MASS_FINEST)


def _rounded(values: ArrayLike, bits: int, finest: float) -> NDArray[np.float32]:
    given = np.asarray(values, np.float32)
    _, exponents = np.frexp(given)  # |x| in [2^(e-1), 2^e)
    steps = np.maximum(exponents - 1 - bits, int(np.log2(finest)))
    rounded: NDArray[Any] = np.ldexp(np.rint(np.ldexp(given, -steps)), steps)
    return np.asarray(rounded + np.float32(0), np.float32)  # -0 + 0 is 0
