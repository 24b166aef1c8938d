"""The fused objective over a language-model head, never holding the logits of more than one chunk of positions.

The gradients of hidden states and head are made in the forward pass, chunk by chunk: three matrix products per
chunk, as many as the plain loss needs, and nothing is computed twice. Only positions that count are touched.
"""

# legend: N positions, M positions that count, C positions of a chunk, H hidden size, V vocabulary, K kept tokens

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from logitfuse.kernels.losses.backends import Backend, passes_for
from logitfuse.kernels.losses.divergences import DIVERGENCES
from logitfuse.kernels.losses.epilogue import Compare, losses_and_gradient_
from logitfuse.kernels.losses.gradients import Gradients
from logitfuse.kernels.losses.passes import Passes, Shape
from logitfuse.kernels.losses.points import Positions, positions
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import PositionWeights
from logitfuse.kernels.positions import NO_LABEL


class ObjectiveParts(NamedTuple):
    """The loss to differentiate, and detached sums for reports."""

    loss: Tensor  # float32, float64 from float64 states; already divided by the normaliser
    clm_sum: Tensor  # float64, Σ of the labels' losses over labelled positions
    fusion_sum: Tensor  # float64, Σ of the fused targets' losses over served positions, without T²
    labelled: Tensor  # int64
    served: Tensor  # int64, positions that count and have a fused target


class _Plan(NamedTuple):
    """What stays the same over all chunks of one call."""

    rows_M: Tensor
    positions: Positions
    compare: Compare
    shape: Shape
    logit_scale: float
    chunk: int
    dtype: torch.dtype  # of the matrix products
    logits_dtype: torch.dtype
    wide: torch.dtype  # of sums
    passes: Passes
    gradient: bool


def fused_objective(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    targets: SparseTargets,
    weights: PositionWeights,
    *,
    residual: str = "bucket",
    divergence: str = "cross_entropy",
    divergence_options: Mapping[str, Any] | None = None,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk: int = 256,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> ObjectiveParts:
    """Return L = Σ_t [ clm_t CE(label_t) + fusion_t D(P_t, Q_t) ] and its parts (FuseLLM, section 3.1).

    D is a divergence of `DIVERGENCES` from the fused target to the student's softmax at `temperature`, times its
    square if asked for; the label's loss is at 1. The target is taken as it stands.

    labels_N: int64, -100 where nothing is to be learnt from a label. weights: see `kernels/losses/weights.py`.
    residual: a rule's name. softcap: c in c·tanh(z/c). logit_scale: factor on the logits before the cap. chunk:
    positions whose logits exist at once; peak memory is about `chunk` x V x 4 bytes. dtype: of the matrix products
    (default: the hidden states'); sums and softmax are float32, or float64 if that is. Where nothing counts, the loss
    is 0 and so are all gradients. Raises `NoMeaning` if the divergence cannot be had of the rule's masses,
    `BackendMissing` for a backend that cannot run here.
    """
    # A label whose weight is 0 counts too: its loss is reported.
    counts_N = (labels_N != NO_LABEL) | ((weights.fusion_N > 0) & targets.served_N)
    rows_M = counts_N.nonzero()[:, 0]
    dtype = dtype or hidden_NH.dtype
    factor = temperature**2 if temperature_squared else 1.0
    taken = PositionWeights(weights.clm_N[rows_M], weights.fusion_N[rows_M] * factor)
    wide = torch.promote_types(dtype, torch.float32)
    counted = positions(labels_N[rows_M], targets.take(rows_M), taken, residual, wide)
    compare = partial(DIVERGENCES.get(divergence), **(divergence_options or {}))
    learns = any(t is not None and t.requires_grad for t in (hidden_NH, weight_VH, bias_V))
    gradient, shape = learns and torch.is_grad_enabled(), Shape(softcap, temperature)
    # A bfloat16 product stays as it is unless more is to be computed with it.
    exact = dtype != torch.bfloat16 or bias_V is not None or logit_scale != 1
    logits_dtype = wide if exact else dtype
    passes = passes_for(backend, hidden_NH.device, logits_dtype)
    plan = _Plan(rows_M, counted, compare, shape, logit_scale, chunk, dtype, logits_dtype, wide, passes, gradient)
    # The dtype of the products is stated, so an autocast region around us must not change it.
    with torch.autocast(hidden_NH.device.type, enabled=False):
        loss, clm_sum, fusion_sum = _FusedObjective.apply(hidden_NH, weight_VH, bias_V, plan)
    return ObjectiveParts(loss, clm_sum, fusion_sum, (labels_N != NO_LABEL).sum(), targets.served_N[rows_M].sum())


class _FusedObjective(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = hidden_NH.new_zeros(3, dtype=torch.float64)  # loss, label losses, fusion losses
        head_VH = weight_VH.to(plan.dtype)
        gradients = Gradients(hidden_NH, weight_VH, bias_V) if plan.gradient else None
        # One piece of memory for the logits of all chunks.
        room_CV = head_VH.new_empty(min(plan.chunk, len(plan.rows_M)), len(head_VH))
        for start in range(0, len(plan.rows_M), plan.chunk):
            part = slice(start, start + plan.chunk)
            _add_chunk(sums, hidden_NH, head_VH, bias_V, plan, part, gradients, room_CV)
        ctx.gradients = gradients
        loss, clm_sum, fusion_sum = sums.unbind()
        ctx.mark_non_differentiable(clm_sum, fusion_sum)
        return loss.to(plan.wide), clm_sum, fusion_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused objective keeps its gradients for one backward pass only")
        hidden_NH, weight_VH, bias_V = ctx.gradients.finished(loss_gradient)
        ctx.gradients = None
        return hidden_NH, weight_VH, bias_V, None


def _add_chunk(
    sums: Tensor,
    hidden_NH: Tensor,
    head_VH: Tensor,
    bias_V: Tensor | None,
    plan: _Plan,
    part: slice,
    gradients: Gradients | None,
    room_CV: Tensor,
) -> None:
    """Add one chunk's losses to `sums` and its share to `gradients`."""
    rows_C, (targets, matched) = plan.rows_M[part], plan.positions.chunk(part)
    hidden_CH = hidden_NH[rows_C].to(plan.dtype)
    logits_CV = torch.mm(hidden_CH, head_VH.T, out=room_CV[: len(hidden_CH)])
    logits_CV = _finished(logits_CV, bias_V, plan)
    clm_C, fusion_C = losses_and_gradient_(
        logits_CV, targets, matched, plan.compare, plan.passes, plan.shape, gradient=gradients is not None
    )
    losses_C3 = torch.stack((targets.clm_C * clm_C + targets.fusion_C * fusion_C, clm_C, fusion_C), dim=1)
    sums.add_(losses_C3.sum(0, dtype=torch.float64))
    if gradients is not None:
        if plan.logit_scale != 1:
            logits_CV.mul_(plan.logit_scale)
        gradients.add(rows_C, logits_CV, hidden_CH, head_VH)


def _finished(logits_CV: Tensor, bias_V: Tensor | None, plan: _Plan) -> Tensor:
    """Add bias and scale."""
    logits_CV = logits_CV.to(plan.logits_dtype)
    if bias_V is not None:
        logits_CV.add_(bias_V)
    return logits_CV.mul_(plan.logit_scale) if plan.logit_scale != 1 else logits_CV
