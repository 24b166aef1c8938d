"""Divergences `cross_entropy` and `kl`: forward, towards all that the target holds likely (FuseLLM, section 3.1)."""

# legend: C positions of a chunk, K kept tokens

from torch import Tensor, xlogy

from logitfuse.kernels.losses.divergences import DIVERGENCES, Compared, Student
from logitfuse.kernels.losses.residuals import Matched


@DIVERGENCES("cross_entropy")
def cross_entropy(matched: Matched, student: Student) -> Compared:
    """-Σ P_i log Q_i - r log Q_out: the cross-entropy of the target's masses, r the left-out one."""
    loss_C = -(matched.kept_NK * student.logq_CK).sum(-1) - matched.rest_N * student.log_out_C
    return Compared(loss_C, -matched.kept_NK, -matched.rest_N)


@DIVERGENCES("kl")
def kl(matched: Matched, student: Student) -> Compared:
    """KL(P‖Q): the cross-entropy less the target's own entropy. The same gradient."""
    found = cross_entropy(matched, student)
    return found._replace(loss_C=found.loss_C - entropy(matched))


def entropy(matched: Matched) -> Tensor:
    """Return the entropy of the masses [C] in nats, the class of all other tokens counted as one."""
    kept_CK = matched.kept_NK.bfloat16() if matched.in_bfloat16 else matched.kept_NK
    return -xlogy(kept_CK, kept_CK).to(matched.kept_NK.dtype).sum(-1) - xlogy(matched.rest_N, matched.rest_N)
