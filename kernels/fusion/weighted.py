"""Weighted: from MinCE to the plain mean, by one temperature."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.evidence import Evidence
from logitfuse.kernels.fusion.min_ce import min_ce
from logitfuse.kernels.fusion.mixture import mixture
from logitfuse.kernels.fusion.runs import runs, spread
from logitfuse.kernels.fusion.shares import shares

LEAST = 1e-12  # below this a temperature is 0: dividing by it would overflow


@FUSIONS("weighted")
def weighted(
    sources: Sequence[Distributions],
    evidence: Evidence,
    *,
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=True)] = 0.1,
) -> tuple[Distributions, NDArray[np.float64]]:
    """Mix with weights softmax(-score / temperature); no score, no weight. A source's own weight multiplies its share.

    `temperature` is in the scores' unit: with the default a source that is 0.1 nats per byte better weighs e times as
    much. 0 is MinCE itself, infinity the mean of all sources that have a score.
    """
    if temperature < LEAST:
        return min_ce(sources, evidence)
    starts = runs(evidence.scores)
    scores_SR = evidence.scores[:, starts[:-1]]
    with np.errstate(divide="ignore"):
        prior_S1 = np.log(evidence.priors)[:, None]
    scored_SR = np.isfinite(scores_SR)
    scaled_SR = np.where(scored_SR, scores_SR, 0.0) / temperature
    weights_ST = spread(shares(np.where(scored_SR, prior_S1 - scaled_SR, -np.inf)), starts)
    return mixture(sources, weights_ST), weights_ST
