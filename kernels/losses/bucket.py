"""Residual rule `bucket`: what the teacher left out is one more class."""

from torch import Tensor

from logitfuse.kernels.losses.residuals import RESIDUALS, Matched


@RESIDUALS("bucket")
def bucket(probs_NK: Tensor, tail_N: Tensor) -> Matched:
    """Keep the probabilities; match the left-out mass to the student's own mass outside the support.

    Nothing is claimed about how the remainder spreads, so a true token the teacher did not keep is not
    taught to be impossible, which `renormalise` does.
    """
    return Matched(probs_NK, tail_N)
