"""Residual rule `as_given`: the target's masses are matched as they stand, whatever they add up to."""

from torch import Tensor

from logitfuse.kernels.losses.residuals import RESIDUALS, Matched


@RESIDUALS("as_given")
def as_given(probs_NK: Tensor, tail_N: Tensor) -> Matched:
    """Match the kept masses and nothing else.

    For targets made as the published code makes them: a softmax over the kept logits alone, rounded to bfloat16, which
    adds up to nearly 1 and is not scaled again.
    """
    return Matched(probs_NK, tail_N * 0, in_bfloat16=True, kept_alone=True, adds_up=False)
