"""AvgCE (FuseLLM, section 3.3): average the sources, weighted by their cross-entropies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.mixture import mixture
from logitfuse.kernels.sparse import Sparse


@FUSIONS("avg_ce")
def avg_ce(sources: Sequence[Sparse], scores_ST: NDArray[np.float64]) -> tuple[Sparse, NDArray[np.float64]]:
    """Mix with weights softmax(exp(-score)), the published code's nearly uniform rule; no score, no weight."""
    reward_ST = np.exp(-scores_ST)
    weights_ST = np.where(np.isfinite(scores_ST), np.exp(reward_ST), 0.0)
    total_T = weights_ST.sum(axis=0)
    weights_ST = np.divide(weights_ST, total_T, out=np.zeros_like(weights_ST), where=total_T > 0)
    return mixture(sources, weights_ST), weights_ST
