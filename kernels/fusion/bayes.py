"""Bayes: weigh sources by how likely each made the text so far, token by token and without looking ahead."""

# legend: S sources, T positions

from collections.abc import Sequence
from typing import Annotated

import numba
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.evidence import Evidence, Steps
from logitfuse.kernels.fusion.mixture import mixture


@FUSIONS("bayes")
def bayes(
    sources: Sequence[Distributions], evidence: Evidence, *, switch: Annotated[float, Field(ge=0, le=1)] = 0.001
) -> tuple[Distributions, NDArray[np.float64]]:
    """Mix with weights prior * likelihood of the document up to the position, at byte boundaries all sources share.

    The prior is the user's weight of each source. `switch` is the chance per byte that the text changes its source
    (the fixed-share rule of Herbster and Warmuth): it keeps the weights from collapsing onto one; 0 is plain Bayes.
    Scores are not looked at, so changing what follows a position changes nothing there.
    """
    weights_ST = posterior(evidence.steps(), evidence.priors, switch)
    return mixture(sources, weights_ST), weights_ST


def posterior(steps: Steps, priors_S: NDArray[np.float64], switch: float) -> NDArray[np.float64]:
    """Return the sources' weights [S, T] after each position's steps; they start from the priors in each document."""
    found: NDArray[np.float64] = _posterior(*steps, priors_S / priors_S.sum(), switch)
    return found


@numba.njit(cache=True, nogil=True)
def _posterior(nats_ST, bytes_T, begins_T, priors_S, switch):  # type: ignore[no-untyped-def]
    weights_ST, logs_S = np.empty_like(nats_ST), np.log(priors_S)
    for t in range(len(bytes_T)):
        if begins_T[t]:
            logs_S = np.log(priors_S)
        if bytes_T[t] > 0:
            logs_S = logs_S - nats_ST[:, t]
            if not np.isfinite(logs_S.max()):  # no source thought this text possible: it tells nothing
                logs_S = np.log(priors_S)
            logs_S = logs_S - logs_S.max()
            logs_S = logs_S - np.log(np.exp(logs_S).sum())
            if switch > 0.0:
                changed = 1.0 - (1.0 - switch) ** bytes_T[t]
                logs_S = np.log((1.0 - changed) * np.exp(logs_S) + changed * priors_S)
        weights_ST[:, t] = np.exp(logs_S)
    return weights_ST
