"""One chunk of logits in, its losses out, and the gradient of the logits left in the logits' own memory.

With z the capped logits, T the fusion temperature and q = softmax(z/T), a divergence of the kept tokens' log q_i and of
log Q_out, the log of all other tokens' mass, has slopes g_i and g_out. Moving z_v moves them by (δ_iv - q_v)/T and
([v outside] q_v / Q_out - q_v)/T, so that the fused loss's gradient is

    (g_v - G q_v) / T            inside the support
    (g_out / Q_out - G) q_v / T  outside, G = Σ g_i + g_out.

For forward KL G = -1: outside, the softmax is scaled by 1 - (1-λ) r / Q_out once the label's is added. The student's
mass outside is summed by itself and not taken as 1 - Σ inside, which would lose all digits where the student is sure.
"""

# legend: C positions of a chunk, V vocabulary, K kept tokens, P = 1 + K points, the label first

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.losses.divergences import Compared, Student
from logitfuse.kernels.losses.passes import Passes, Shape, Sums, Written, put_
from logitfuse.kernels.losses.points import ChunkTargets
from logitfuse.kernels.losses.reference import LOG_FLOOR
from logitfuse.kernels.losses.residuals import Matched

Compare = Callable[[Matched, Student], Compared]


class _Softmax(NamedTuple):
    """A position's softmax at one temperature, relative to its largest logit."""

    total_C: Tensor  # Σ exp((z - peak) / temperature) over the vocabulary
    log_total_C: Tensor
    relative_CP: Tensor  # (z - peak) / temperature of the points

    def log_probabilities(self) -> Tensor:
        return self.relative_CP - self.log_total_C[:, None]


def losses_and_gradient_(
    logits_CV: Tensor,
    chunk: ChunkTargets,
    matched: Matched,
    compare: Compare,
    passes: Passes,
    shape: Shape,
    *,
    gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the label loss [C], 0 without a label, and the fusion loss [C], 0 without a target.

    With `gradient`, `logits_CV` becomes the gradient of Σ (clm * label loss + fusion * fusion loss) with respect
    to the logits given; without, it is scratch.
    """
    raw_CP = logits_CV.gather(1, chunk.ids_CP)
    put_(logits_CV, chunk.ids_CP, raw_CP.masked_fill(chunk.taken_CP, -torch.inf))
    sums = passes.outside(logits_CV, shape)
    capped_CP = shape.cap(raw_CP.to(sums.peak_C.dtype))
    peak_C = torch.maximum(sums.peak_C, capped_CP.amax(-1))
    plain = _softmax(sums.plain_C, sums, peak_C, capped_CP, chunk, 1.0)
    tempered = _softmax(sums.tempered_C, sums, peak_C, capped_CP, chunk, shape.temperature) if shape.tempered else plain
    log_out_C = sums.tempered_C.log() + (sums.peak_C - peak_C) / shape.temperature - tempered.log_total_C
    log_out_C = log_out_C.masked_fill(sums.peak_C == -torch.inf, LOG_FLOOR).clamp(min=LOG_FLOOR)
    logq_CK = tempered.log_probabilities()[:, 1:].masked_fill(~chunk.support_CK, 0)
    found = compare(matched, Student(logq_CK, chunk.support_CK, log_out_C))
    if gradient:
        # At its floor the left-out mass is a constant in the loss and has no gradient.
        found = found._replace(out_C=found.out_C.masked_fill(log_out_C <= LOG_FLOOR, 0))
        written = _written(chunk, found, plain, tempered, log_out_C, shape)
        slope_CP = shape.slope(capped_CP)
        passes.gradient_(logits_CV, shape, written._replace(peak_C=peak_C, values_CP=written.values_CP * slope_CP))
    label_loss_C = torch.where(chunk.labelled_C, -plain.log_probabilities()[:, 0], 0)
    return label_loss_C, torch.where(chunk.served_C, found.loss_C, 0)


def _softmax(
    outside_C: Tensor, sums: Sums, peak_C: Tensor, capped_CP: Tensor, chunk: ChunkTargets, temperature: float
) -> _Softmax:
    """Put the sum outside and the support together."""
    relative_CP = (capped_CP - peak_C[:, None]) / temperature
    inside_C = (relative_CP[:, 1:].exp() * chunk.support_CK).sum(-1)
    total_C = outside_C * ((sums.peak_C - peak_C) / temperature).exp() + inside_C
    return _Softmax(total_C, total_C.log(), relative_CP)


def _written(
    chunk: ChunkTargets, found: Compared, plain: _Softmax, tempered: _Softmax, log_out_C: Tensor, shape: Shape
) -> Written:
    """Return the gradient: two factors outside the support, values at the points. The peak is left to fill in.

    At temperature 1 both softmaxes are one, and so are their factors.
    """
    fusion_C = chunk.fusion_C / shape.temperature
    slopes_C = found.kept_CK.sum(-1) + found.out_C
    plain_C = chunk.clm_C / plain.total_C
    tempered_C = fusion_C * (found.out_C * (-log_out_C).exp() - slopes_C) / tempered.total_C
    plain_CP, tempered_CP = (softmax.relative_CP.exp() for softmax in (plain, tempered))
    of_label_CP = plain_CP * plain_C[:, None]
    outside_C = of_label_CP[:, 0] + tempered_CP[:, 0] * tempered_C
    inside_CK = fusion_C[:, None] * (found.kept_CK - slopes_C[:, None] * tempered_CP[:, 1:] / tempered.total_C[:, None])
    inside_CK = of_label_CP[:, 1:] + inside_CK
    gold_C = torch.where(chunk.taken_CP[:, 0], (inside_CK * chunk.gold_CK).sum(-1), outside_C) - chunk.clm_C
    at_label_CK = chunk.gold_CK | ~chunk.support_CK
    values_CP = torch.cat([gold_C[:, None], torch.where(at_label_CK, gold_C[:, None], inside_CK)], dim=1)
    if not shape.tempered:
        plain_C, both = plain_C + tempered_C, None
    else:
        both = tempered_C
    return Written(plain_C, plain_C, both, chunk.ids_CP, values_CP)
