"""MinCE (FuseLLM, section 3.3): keep the distribution of the source with the least cross-entropy."""

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.bfloat16 import Precision, rewards, round_bf16
from logitfuse.kernels.fusion.distributions import Distributions, chosen_rows
from logitfuse.kernels.fusion.evidence import Evidence


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
    if precision == "bf16":
        prior_S1 = round_bf16(evidence.priors)[:, None]
        losses_ST = np.where(prior_S1 > 0, -round_bf16(rewards(evidence.scores) * prior_S1).astype(np.float64), np.inf)
        losses_ST[~np.isfinite(evidence.scores)] = np.inf
        winner_T, weights_ST = _chosen(losses_ST, np.zeros(len(sources)), evidence.target is None)
    else:
        with np.errstate(divide="ignore"):
            bonus_S = np.log(evidence.priors)
        winner_T, weights_ST = _chosen(evidence.scores, bonus_S, False)
    return chosen_rows(sources, winner_T), weights_ST


@numba.njit(cache=True, nogil=True)
def _chosen(losses_ST, bonus_S, last_wins):  # type: ignore[no-untyped-def]
    sources, positions = losses_ST.shape
    winner_T, weights_ST = np.full(positions, -1, np.int32), np.zeros((sources, positions))
    for t in range(positions):
        best = np.inf
        for s in range(sources):
            loss = losses_ST[s, t] - bonus_S[s]
            if loss < best or (last_wins and loss == best and loss < np.inf):
                best, winner_T[t] = loss, s
        if winner_T[t] >= 0:
            weights_ST[winner_T[t], t] = 1.0
    return winner_T, weights_ST
