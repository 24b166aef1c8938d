"""The fused objective over a language-model head, never holding the logits of more than one chunk of positions.

The gradients of hidden states and head are made in the forward pass, chunk by chunk: three matrix products per
chunk, as many as the plain loss needs, and nothing is computed twice. Only positions that count are touched.
"""

# legend: N positions, M positions that count, C positions of a chunk, H hidden size, V vocabulary, K kept tokens

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from logitfuse.kernels.losses.epilogue import ChunkTargets, losses_and_gradient_
from logitfuse.kernels.losses.residuals import Divergence
from logitfuse.kernels.losses.targets import SparseTargets, apply_residual, entropy
from logitfuse.kernels.losses.weights import PositionWeights
from logitfuse.kernels.positions import NO_LABEL

HEAD_BLOCK = 4096  # rows of the head whose 16-bit product exists at once before it is added in float32


class ObjectiveParts(NamedTuple):
    """The loss to differentiate, and detached sums for reports."""

    loss: Tensor  # float32, already divided by the normaliser
    clm_sum: Tensor  # float64, Σ of the labels' losses over labelled positions
    fusion_sum: Tensor  # float64, Σ of the fused targets' losses over served positions
    labelled: Tensor  # int64
    served: Tensor  # int64, positions that count and have a fused target


class _Plan(NamedTuple):
    """What stays the same over all chunks of one call."""

    rows_M: Tensor
    targets: ChunkTargets  # of the M positions that count
    entropy_M: Tensor  # float32, taken off the fused targets' losses
    softcap: float | None
    logit_scale: float
    chunk: int
    dtype: torch.dtype
    gradient: bool


def fused_objective(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    targets: SparseTargets,
    weights: PositionWeights,
    *,
    residual: str = "bucket",
    divergence: Divergence = "cross_entropy",
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk: int = 256,
    dtype: torch.dtype | None = None,
) -> ObjectiveParts:
    """Return L = Σ_t [ clm_t CE(label_t) + fusion_t D(P_t, Q_t) ] and its parts (FuseLLM, section 3.1).

    D is the cross-entropy against the fused target or, as `kl`, that minus the target's own entropy: the forward
    KL divergence, whose gradient is the same.

    labels_N: int64, -100 where nothing is to be learnt from a label. weights: see `kernels/losses/weights.py`.
    residual: a rule's name. softcap: c in c·tanh(z/c). logit_scale: factor on the logits before the cap. chunk:
    positions whose logits exist at once; peak memory is about `chunk` x V x 4 bytes. dtype: of the matrix products
    (default: the hidden states'); sums and softmax are float32 always. Where nothing counts, the loss is 0 and so
    are all gradients.
    """
    # A label whose weight is 0 counts too: its loss is reported.
    counts_N = (labels_N != NO_LABEL) | ((weights.fusion_N > 0) & targets.served_N)
    rows_M = counts_N.nonzero()[:, 0]
    positions, entropy_M = _positions(labels_N[rows_M], targets.take(rows_M), weights, rows_M, residual)
    if divergence == "cross_entropy":
        entropy_M = torch.zeros_like(entropy_M)
    learns = any(t is not None and t.requires_grad for t in (hidden_NH, weight_VH, bias_V))
    gradient = learns and torch.is_grad_enabled()
    plan = _Plan(rows_M, positions, entropy_M, softcap, logit_scale, chunk, dtype or hidden_NH.dtype, gradient)
    # The dtype of the products is stated, so an autocast region around us must not change it.
    with torch.autocast(hidden_NH.device.type, enabled=False):
        loss, clm_sum, fusion_sum = _FusedObjective.apply(hidden_NH, weight_VH, bias_V, plan)
    return ObjectiveParts(loss, clm_sum, fusion_sum, (labels_N != NO_LABEL).sum(), targets.served_N[rows_M].sum())


def _positions(
    labels_M: Tensor, targets: SparseTargets, weights: PositionWeights, rows_M: Tensor, residual: str
) -> tuple[ChunkTargets, Tensor]:
    """Return what the chunks need of the positions that count, and the entropy of their matched targets."""
    ids_MK, support_MK, matched = apply_residual(targets, residual)
    clm_M = weights.clm_N[rows_M].masked_fill(labels_M == NO_LABEL, 0)
    fusion_M = weights.fusion_N[rows_M] * targets.served_N
    return ChunkTargets(labels_M, ids_MK, support_MK, *matched[:2], clm_C=clm_M, fusion_C=fusion_M), entropy(matched)


class _FusedObjective(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = hidden_NH.new_zeros(3, dtype=torch.float64)  # loss, label losses, fusion losses
        head_VH = weight_VH.to(plan.dtype)
        gradients = _Gradients(hidden_NH, weight_VH, bias_V) if plan.gradient else None
        for start in range(0, len(plan.rows_M), plan.chunk):
            part = slice(start, start + plan.chunk)
            _add_chunk(sums, hidden_NH, head_VH, bias_V, plan, part, gradients)
        ctx.gradients = gradients
        loss, clm_sum, fusion_sum = sums.unbind()
        ctx.mark_non_differentiable(clm_sum, fusion_sum)
        return loss.float(), clm_sum, fusion_sum

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
    gradients: "_Gradients | None",
) -> None:
    """Add one chunk's losses to `sums` and its share to `gradients`."""
    rows_C = plan.rows_M[part]
    targets = ChunkTargets(*(column[part] for column in plan.targets))
    hidden_CH = hidden_NH[rows_C].to(plan.dtype)
    logits_CV = (hidden_CH @ head_VH.T).float()
    if bias_V is not None:
        logits_CV.add_(bias_V)
    if plan.logit_scale != 1:
        logits_CV.mul_(plan.logit_scale)
    clm_C, fusion_C = losses_and_gradient_(logits_CV, targets, softcap=plan.softcap, gradient=gradients is not None)
    fusion_C = fusion_C - plan.entropy_M[part]
    losses_C3 = torch.stack((targets.clm_C * clm_C + targets.fusion_C * fusion_C, clm_C, fusion_C), dim=1)
    sums.add_(losses_C3.sum(0, dtype=torch.float64))
    if gradients is not None:
        if plan.logit_scale != 1:
            logits_CV.mul_(plan.logit_scale)
        gradients.add(rows_C, logits_CV, hidden_CH, head_VH)


class _Gradients:
    """Gradients of what the loss depends on, filled chunk by chunk; the head's are summed in float32."""

    def __init__(self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> None:
        self._dtypes = hidden_NH.dtype, weight_VH.dtype, None if bias_V is None else bias_V.dtype
        self.hidden_NH = torch.zeros_like(hidden_NH) if hidden_NH.requires_grad else None
        self.weight_VH = _float_zeros(weight_VH) if weight_VH.requires_grad else None
        self.bias_V = _float_zeros(bias_V) if bias_V is not None and bias_V.requires_grad else None

    def add(self, rows_C: Tensor, logits_CV: Tensor, hidden_CH: Tensor, head_VH: Tensor) -> None:
        """Add a chunk, given the gradient of its logits in float32."""
        if self.bias_V is not None:
            self.bias_V.add_(logits_CV.sum(0))
        logits_CV = logits_CV.to(head_VH.dtype)
        if self.hidden_NH is not None:
            self.hidden_NH[rows_C] = (logits_CV @ head_VH).to(self.hidden_NH.dtype)
        if self.weight_VH is None:
            return
        if hidden_CH.dtype == torch.float32:
            self.weight_VH.addmm_(logits_CV.T, hidden_CH)
            return
        for start in range(0, len(self.weight_VH), HEAD_BLOCK):
            block = slice(start, start + HEAD_BLOCK)
            self.weight_VH[block] += (logits_CV[:, block].T @ hidden_CH).float()

    def finished(self, loss_gradient: Tensor) -> list[Tensor | None]:
        """Return the three gradients times the loss's own, each in the dtype of what it belongs to."""
        found = (self.hidden_NH, self.weight_VH, self.bias_V)
        return [
            None if gradient is None else gradient.mul_(loss_gradient).to(dtype)
            for gradient, dtype in zip(found, self._dtypes, strict=True)
        ]


def _float_zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float32)
