"""MinCE (FuseLLM, section 3.3): keep the distribution of the source with the least cross-entropy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.bfloat16 import Precision, rewards, round_bf16
from logitfuse.kernels.fusion.distributions import Distributions, chosen_runs
from logitfuse.kernels.fusion.evidence import Evidence
from logitfuse.kernels.fusion.runs import runs, spread


@FUSIONS("min_ce")
def min_ce(
    sources: Sequence[Distributions], evidence: Evidence, *, precision: Precision = "full"
) -> tuple[Distributions, NDArray[np.float64]]:
    """Copy, at each position, the source whose score is least; equal scores go to the first source.

    A position that the chosen source does not serve stays empty. A source's weight w counts as log(w) off its score:
    it multiplies the reward exp(-score) by which the published code chooses; weight 0 is never chosen.
    `precision` bf16 chooses by the rewards in bfloat16 as published: close scores tie, and ties go to the first
    source, without the target's own distributions to the last.
    """
    starts = runs(evidence.scores)
    scores_SR = evidence.scores[:, starts[:-1]]
    if precision == "bf16":
        prior_S1 = round_bf16(evidence.priors)[:, None]
        losses_SR = np.where(prior_S1 > 0, -round_bf16(rewards(scores_SR) * prior_S1).astype(np.float64), np.inf)
        losses_SR[~np.isfinite(scores_SR)] = np.inf
    else:
        with np.errstate(divide="ignore"):
            losses_SR = scores_SR - np.log(evidence.priors)[:, None]
    winner_R = _least(losses_SR, last_wins=precision == "bf16" and evidence.target is None)
    weights_SR = (winner_R == np.arange(len(sources))[:, None]).astype(np.float64)
    return chosen_runs(sources, winner_R, starts), spread(weights_SR, starts)


def _least(losses_SR: NDArray[np.float64], *, last_wins: bool) -> NDArray[np.int32]:
    """Return the source with the least loss, the first of equals or the last; -1 where none is finite."""
    if last_wins:
        winner_R = len(losses_SR) - 1 - losses_SR[::-1].argmin(0)
    else:
        winner_R = losses_SR.argmin(0)
    return np.where(losses_SR.min(0) < np.inf, winner_R, -1).astype(np.int32)
