"""Divergence `jsd`: between forward and reverse, and bounded (generalised Jensen-Shannon; GKD, arXiv 2306.13649)."""

# legend: C positions of a chunk, K kept tokens

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from logitfuse.kernels.losses.divergences import DIVERGENCES, Compared, Student, need_distributions
from logitfuse.kernels.losses.residuals import Matched


@DIVERGENCES("jsd")
def jsd(matched: Matched, student: Student, *, mixing: Annotated[float, Field(gt=0, lt=1)] = 0.5) -> Compared:
    """β KL(P‖M) + (1-β) KL(Q‖M) with M = βP + (1-β)Q, over the kept tokens and the class of all others.

    `mixing` is β: near 0 it behaves as β times the forward KL, near 1 as 1-β times the reverse one. Where nothing is
    left out this is the divergence over the whole vocabulary, for the student's mass outside enters as one sum.
    """
    need_distributions("jsd", matched)
    inside = _parts(matched.kept_NK, student.logq_CK, mixing)
    kept_CK, slopes_CK = (part * student.support_CK for part in inside)
    rest_C, slope_C = _parts(matched.rest_N, student.log_out_C, mixing)
    return Compared(kept_CK.sum(-1) + rest_C, slopes_CK, slope_C)


def _parts(p: Tensor, logq: Tensor, mixing: float) -> tuple[Tensor, Tensor]:
    """Return each class's part β p log(p/m) + (1-β) q log(q/m), and its slope by log q, which is (1-β) q log(q/m)."""
    weighted = p.log() + math.log(mixing), logq + math.log1p(-mixing)
    log_m = torch.logaddexp(*weighted)
    of_student = (1 - mixing) * logq.exp() * (logq - log_m)
    of_target = mixing * p * (p.clamp(min=torch.finfo(p.dtype).tiny).log() - log_m)
    return of_target + of_student, of_student
