"""The fused objective written out densely in float64: the definition that `fused.py` is tested against."""

# legend: N positions, H hidden size, V vocabulary, K kept tokens

import torch
from torch import Tensor

from logitfuse.kernels.losses.targets import SparseTargets, apply_residual
from logitfuse.kernels.losses.weights import PositionWeights

LOG_FLOOR = -69.0  # log of the least student mass outside the support that is told from none


def objective_reference(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    targets: SparseTargets,
    weights: PositionWeights,
    *,
    residual: str = "bucket",
    divergence: str = "cross_entropy",
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, sum of label losses, sum of fusion losses) in float64, differentiable by autograd.

    L = Σ_t [ clm_t CE(label_t) + fusion_t D_t ]; D_t = -Σ_i P_i log Q_i - r log Q_out over the support and what is
    outside, for `kl` with Σ_i P_i log P_i + r log r added. A position without label or target has no such loss.
    """
    logq_NV = _log_probabilities(hidden_NH, weight_VH, bias_V, softcap, logit_scale)
    labelled_N = labels_N != -100
    served_N = targets.served_N & (labelled_N | (weights.fusion_N > 0))
    ce_N = torch.where(labelled_N, -logq_NV.gather(1, labels_N.clamp(min=0)[:, None])[:, 0], 0)
    soft_N = torch.where(served_N, _soft_cross_entropy(logq_NV, targets, residual, divergence), 0)
    loss = (weights.clm_N.double() * ce_N + weights.fusion_N.double() * soft_N).sum()
    return loss, ce_N.sum(), soft_N.sum()


def _log_probabilities(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, softcap: float | None, logit_scale: float
) -> Tensor:
    logits_NV = hidden_NH.double() @ weight_VH.double().T
    if bias_V is not None:
        logits_NV = logits_NV + bias_V.double()
    logits_NV = logits_NV * logit_scale
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    return logits_NV.log_softmax(-1)


def _soft_cross_entropy(logq_NV: Tensor, targets: SparseTargets, residual: str, divergence: str) -> Tensor:
    ids_NK, support_NK, matched = apply_residual(targets, residual)
    kept_NV = torch.zeros_like(logq_NV).scatter_add(1, ids_NK, matched.kept_NK.double())
    inside_NV = torch.zeros_like(logq_NV).scatter_add(1, ids_NK, support_NK.double()) > 0
    # Where the support is the whole vocabulary nothing is outside; a stand-in keeps its gradient from being NaN.
    all_inside_N = inside_NV.all(-1)
    outside_NV = logq_NV.masked_fill(inside_NV & ~all_inside_N[:, None], -torch.inf)
    log_out_N = outside_NV.logsumexp(-1).masked_fill(all_inside_N, LOG_FLOOR).clamp(min=LOG_FLOOR)
    rest_N = matched.rest_N.double()
    cross_N = -(kept_NV * logq_NV).sum(-1) - rest_N * log_out_N
    if divergence == "kl":
        masses_NV = kept_NV.bfloat16() if matched.in_bfloat16 else kept_NV
        cross_N = cross_N + torch.xlogy(masses_NV, masses_NV).double().sum(-1) + torch.xlogy(rest_N, rest_N)
    return cross_N
