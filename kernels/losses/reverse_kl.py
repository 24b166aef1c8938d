"""Divergence `reverse_kl`: away from what the target holds unlikely (MiniLLM, arXiv 2306.08543)."""

# legend: C positions of a chunk, K kept tokens

from typing import Annotated

import torch
from pydantic import Field

from logitfuse.kernels.losses.divergences import DIVERGENCES, Compared, Student, need_distributions
from logitfuse.kernels.losses.residuals import Matched


@DIVERGENCES("reverse_kl")
def reverse_kl(matched: Matched, student: Student, *, floor: Annotated[float, Field(gt=0, lt=1)] = 1e-6) -> Compared:
    """KL(Q‖P) over the kept tokens and the class of all others.

    A target that leaves nothing out says that all other tokens are impossible, and the divergence would be infinite:
    the left-out mass counts as at least `floor`. Where the kept tokens are the whole target by the residual rule
    (`renormalise`), the student's own probabilities are renormalised over them too: its mass on other tokens is not
    touched, and the floor not used. The masses of an unserved position are no distribution; its value is not read.
    """
    need_distributions("reverse_kl", matched)
    if matched.kept_alone:
        return _over_the_kept(matched, student)
    q_CK, out_C = student.logq_CK.exp() * student.support_CK, student.log_out_C.exp()
    surplus_CK = (student.logq_CK - _log(matched, student)) * student.support_CK
    surplus_C = student.log_out_C - matched.rest_N.clamp(min=floor).log()
    loss_C = (q_CK * surplus_CK).sum(-1) + out_C * surplus_C
    # Slopes that differ by a multiple of q have the same effect; these have no sum that would only cost digits.
    return Compared(loss_C, q_CK * (surplus_CK - loss_C[:, None]), out_C * (surplus_C - loss_C))


def _over_the_kept(matched: Matched, student: Student) -> Compared:
    lowest = torch.finfo(student.logq_CK.dtype).min  # finite, so that a row without support is no NaN
    logq_CK = student.logq_CK.masked_fill(~student.support_CK, lowest).log_softmax(-1)
    surplus_CK = (logq_CK - _log(matched, student)).masked_fill(~student.support_CK, 0)
    q_CK = logq_CK.exp() * student.support_CK
    loss_C = (q_CK * surplus_CK).sum(-1)
    return Compared(loss_C, q_CK * (surplus_CK - loss_C[:, None]), torch.zeros_like(loss_C))


def _log(matched: Matched, student: Student) -> torch.Tensor:
    return matched.kept_NK.masked_fill(~student.support_CK, 1).log()
