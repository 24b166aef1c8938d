"""AvgCE (FuseLLM, section 3.3): average the sources, weighted by their cross-entropies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.bfloat16 import Precision, rewards, softmax_of_rewards
from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.evidence import Evidence
from logitfuse.kernels.fusion.mixture import mixture
from logitfuse.kernels.fusion.runs import runs, spread
from logitfuse.kernels.fusion.shares import shares


@FUSIONS("avg_ce")
def avg_ce(
    sources: Sequence[Distributions], evidence: Evidence, *, precision: Precision = "full"
) -> tuple[Distributions, NDArray[np.float64]]:
    """Mix with weights softmax(exp(-score)), the published code's nearly uniform rule; no score, no weight.

    A source's own weight multiplies its share. `precision` bf16 computes rewards, weights and the sum in bfloat16 as
    published; the weights then need not add up to exactly 1.
    """
    starts = runs(evidence.scores)
    scores_SR = evidence.scores[:, starts[:-1]]
    with np.errstate(divide="ignore"):
        prior_S1 = np.log(evidence.priors)[:, None]
    scored_SR = np.isfinite(scores_SR)
    if precision == "bf16":
        rewards_SR = np.where(scored_SR, rewards(scores_SR) + prior_S1, -np.inf)
        weights_SR = softmax_of_rewards(rewards_SR.astype(np.float32))
    else:
        weights_SR = shares(np.where(scored_SR, np.exp(-scores_SR) + prior_S1, -np.inf))
    weights_ST = spread(weights_SR, starts)
    return mixture(sources, weights_ST, precision), weights_ST
