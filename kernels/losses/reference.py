"""The fused objective written out densely in float64: the definition that `fused.py` is tested against."""

# legend: N positions, H hidden size, V vocabulary, K kept tokens

from collections.abc import Mapping
from typing import Any

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
    divergence_options: Mapping[str, Any] | None = None,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, sum of label losses, sum of fusion losses) in float64, differentiable by autograd.

    L = Σ_t [ clm_t CE(label_t) + fusion_t D_t ]. A position without label or target has no such loss. Each D is
    in docs/losses.md.
    """
    logits_NV = _logits(hidden_NH, weight_VH, bias_V, softcap, logit_scale)
    labelled_N = labels_N != -100
    served_N = targets.served_N & (labelled_N | (weights.fusion_N > 0))
    ce_N = torch.where(labelled_N, -logits_NV.log_softmax(-1).gather(1, labels_N.clamp(min=0)[:, None])[:, 0], 0)
    logq_NV = (logits_NV / temperature).log_softmax(-1)
    soft_N = _divergence(logq_NV, targets, residual, divergence, **(divergence_options or {}))
    soft_N = torch.where(served_N, soft_N, 0)
    factor = temperature**2 if temperature_squared else 1
    loss = (weights.clm_N.double() * ce_N + factor * weights.fusion_N.double() * soft_N).sum()
    return loss, ce_N.sum(), soft_N.sum()


def _logits(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, softcap: float | None, logit_scale: float
) -> Tensor:
    logits_NV = hidden_NH.double() @ weight_VH.double().T
    if bias_V is not None:
        logits_NV = logits_NV + bias_V.double()
    logits_NV = logits_NV * logit_scale
    return logits_NV if softcap is None else softcap * torch.tanh(logits_NV / softcap)


def _divergence(
    logq_NV: Tensor, targets: SparseTargets, residual: str, divergence: str, floor: float = 1e-6, mixing: float = 0.5
) -> Tensor:
    """Compare V+1 classes: every token, those outside the support with nothing, and last all those outside as one."""
    ids_NK, support_NK, matched = apply_residual(targets, residual, torch.float64)
    p_NV = torch.zeros_like(logq_NV).scatter_add(1, ids_NK, matched.kept_NK)
    inside_NV = torch.zeros_like(logq_NV).scatter_add(1, ids_NK, support_NK.double()) > 0
    if divergence == "reverse_kl" and matched.kept_alone:
        return _reverse_over_the_kept(p_NV, logq_NV, inside_NV)
    p_NC = torch.cat([p_NV, matched.rest_N[:, None]], dim=1)
    logq_NC = torch.cat([logq_NV, _log_outside(logq_NV, inside_NV)[:, None]], dim=1)
    if divergence in ("cross_entropy", "kl"):
        own_N = _negative_entropy(p_NC, matched.in_bfloat16) if divergence == "kl" else 0
        return own_N - (p_NC * logq_NC).sum(-1)
    q_NC = logq_NC.exp() * torch.cat([inside_NV, torch.ones_like(inside_NV[:, :1])], dim=1)
    if divergence == "reverse_kl":
        return _kl(q_NC, torch.cat([p_NV, matched.rest_N.clamp(min=floor)[:, None]], dim=1))
    middle_NC = mixing * p_NC + (1 - mixing) * q_NC
    return mixing * _kl(p_NC, middle_NC) + (1 - mixing) * _kl(q_NC, middle_NC)


def _log_outside(logq_NV: Tensor, inside_NV: Tensor) -> Tensor:
    # Where the support is the whole vocabulary nothing is outside; a stand-in keeps its gradient from being NaN.
    all_inside_N = inside_NV.all(-1)
    outside_NV = logq_NV.masked_fill(inside_NV & ~all_inside_N[:, None], -torch.inf)
    return outside_NV.logsumexp(-1).masked_fill(all_inside_N, LOG_FLOOR).clamp(min=LOG_FLOOR)


def _negative_entropy(p_NC: Tensor, in_bfloat16: bool) -> Tensor:
    rounded_NC = p_NC.bfloat16() if in_bfloat16 else p_NC
    return torch.xlogy(rounded_NC, rounded_NC).double().sum(-1)


def _reverse_over_the_kept(p_NV: Tensor, logq_NV: Tensor, inside_NV: Tensor) -> Tensor:
    some_N1 = inside_NV.any(-1, keepdim=True)
    q_NV = logq_NV.masked_fill(~inside_NV & some_N1, -torch.inf).softmax(-1) * inside_NV
    return _kl(q_NV, p_NV.masked_fill(~inside_NV, 1))


def _kl(p_NC: Tensor, q_NC: Tensor) -> Tensor:
    """Σ p log(p/q); a class without p counts nothing, and its gradient is nothing."""
    there_NC = p_NC > 0
    p_NC, q_NC = p_NC.where(there_NC, 1), q_NC.where(there_NC, 1)
    return (p_NC * (p_NC.log() - q_NC.log())).sum(-1)
