"""Residual rule `renormalise`: kept entries count as the whole distribution (FuseLLM, arXiv 2401.10491)."""

from torch import Tensor, finfo

from logitfuse.kernels.losses.residuals import RESIDUALS, Matched


@RESIDUALS("renormalise")
def renormalise(probs_NK: Tensor, tail_N: Tensor) -> Matched:
    """Scale the kept probabilities to sum to 1, as a softmax over the kept logits alone does.

    The published code does this; at small k it overstates the likeliest tokens and rules out all others.
    """
    mass_N1 = probs_NK.sum(-1, keepdim=True)
    return Matched(probs_NK / mass_N1.clamp(min=finfo(probs_NK.dtype).tiny), tail_N * 0, kept_alone=True)
