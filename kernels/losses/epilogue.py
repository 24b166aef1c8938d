"""One chunk of logits in, its losses out, and the gradient of the logits left in the logits' own memory."""

# legend: C positions of a chunk, V vocabulary, K kept tokens

from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.losses.reference import LOG_FLOOR
from logitfuse.kernels.positions import NO_LABEL


class ChunkTargets(NamedTuple):
    """Labels, matched masses and weights of a chunk's positions."""

    labels_C: Tensor  # int64, NO_LABEL where there is none: its weight is 0 then
    ids_CK: Tensor  # int64, 0 at padding
    support_CK: Tensor  # bool
    kept_CK: Tensor  # float32
    rest_C: Tensor  # float32
    clm_C: Tensor  # float32, weight of the label's loss
    fusion_C: Tensor  # float32, weight of the fused target's loss


def losses_and_gradient_(
    logits_CV: Tensor, chunk: ChunkTargets, *, softcap: float | None = None, gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the label loss [C], 0 without a label, and the fusion loss [C]; overwrite `logits_CV` (float32).

    With `gradient`, `logits_CV` becomes the gradient of Σ (clm * label loss + fusion * fusion loss) with respect
    to the logits given; without, it is scratch. The student's mass outside the support is summed by itself
    and not taken as 1 - Σ inside, which would lose all digits where the student is sure.
    """
    capped_CV = _softcap_(logits_CV, softcap) if softcap is not None else None
    peak_C1 = logits_CV.amax(-1, keepdim=True)
    has_label_C = chunk.labels_C != NO_LABEL
    gold_C = (logits_CV.gather(1, chunk.labels_C.clamp(min=0)[:, None]) - peak_C1)[:, 0]
    kept_logits_CK = logits_CV.gather(1, chunk.ids_CK) - peak_C1
    odds_CV = logits_CV.sub_(peak_C1).exp_()
    odds_CK = odds_CV.gather(1, chunk.ids_CK) * chunk.support_CK
    odds_CV.scatter_add_(1, chunk.ids_CK, -odds_CK)  # exactly zero inside the support from here on
    out_C = odds_CV.sum(-1)
    sum_C = out_C + odds_CK.sum(-1)
    log_sum_C = sum_C.log()
    log_out_C = (out_C.log() - log_sum_C).clamp(min=LOG_FLOOR)
    logq_CK = (kept_logits_CK - log_sum_C[:, None]).masked_fill(~chunk.support_CK, 0)
    fusion_loss_C = -(chunk.kept_CK * logq_CK).sum(-1) - chunk.rest_C * log_out_C
    if gradient:
        _gradient_(odds_CV, odds_CK, out_C, sum_C, log_out_C, chunk)
        if capped_CV is not None:
            odds_CV.mul_(capped_CV.square_().neg_().add_(1))
    return torch.where(has_label_C, log_sum_C - gold_C, 0), fusion_loss_C


def _gradient_(
    odds_CV: Tensor, odds_CK: Tensor, out_C: Tensor, sum_C: Tensor, log_out_C: Tensor, chunk: ChunkTargets
) -> None:
    """Turn odds into the gradient: softmax minus targets; outside the support the softmax is scaled.

    The scale is 1 - (1-λ) r / Q_out for a whole target with left-out mass r. Where Q_out is at its floor the
    left-out mass is a constant in the loss and has no gradient.
    """
    rest_C = torch.where(log_out_C > LOG_FLOOR, chunk.rest_C, 0)
    softmax_scale_C = (chunk.clm_C + chunk.fusion_C * (chunk.kept_CK.sum(-1) + rest_C)) / sum_C
    pull_C = chunk.fusion_C * rest_C / out_C.clamp(min=torch.finfo(out_C.dtype).tiny)
    odds_CV.mul_((softmax_scale_C - pull_C)[:, None])
    inside_CK = odds_CK * softmax_scale_C[:, None] - chunk.fusion_C[:, None] * chunk.kept_CK
    odds_CV.scatter_add_(1, chunk.ids_CK, inside_CK)
    odds_CV.scatter_add_(1, chunk.labels_C.clamp(min=0)[:, None], -chunk.clm_C[:, None])


def _softcap_(logits_CV: Tensor, softcap: float) -> Tensor:
    """Cap the logits in place; return tanh(logits / cap), from which the cap's slope follows."""
    capped_CV = logits_CV.div_(softcap).tanh_().clone()
    logits_CV.mul_(softcap)
    return capped_CV
