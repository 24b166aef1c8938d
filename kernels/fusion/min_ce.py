"""MinCE (FuseLLM, section 3.3): keep the distribution of the source with the least cross-entropy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.mixture import mixture
from logitfuse.kernels.sparse import Sparse


@FUSIONS("min_ce")
def min_ce(sources: Sequence[Sparse], scores_ST: NDArray[np.float64]) -> tuple[Sparse, NDArray[np.float64]]:
    """Copy, at each position, the source whose score is least; equal scores go to the first source."""
    weights_ST = np.zeros_like(scores_ST)
    best_T = np.argmin(scores_ST, axis=0)
    finite = np.isfinite(scores_ST[best_T, np.arange(scores_ST.shape[1])])
    weights_ST[best_T[finite], np.flatnonzero(finite)] = 1.0
    return mixture(sources, weights_ST, keep_unserved=True), weights_ST
