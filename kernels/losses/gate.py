"""Do fused targets know more of a text than the student that is to learn from them, as the student is now?

Two numbers for each position: -log of what the student gives the true token, and of what the target gives it. They are
had in a pass of their own over the head, without gradients, chunk by chunk: one more of the head's matrix products
(three without it), and the body is not run again.
"""

# legend: N positions, M positions that are compared, H hidden size, V vocabulary, K kept tokens, G sequences

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.losses.backends import Backend, passes_for
from logitfuse.kernels.losses.divergences import Compared, Student
from logitfuse.kernels.losses.epilogue import losses_and_gradient_
from logitfuse.kernels.losses.passes import Passes, Shape
from logitfuse.kernels.losses.points import ChunkTargets, positions
from logitfuse.kernels.losses.residuals import Matched
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import PositionWeights
from logitfuse.kernels.positions import NO_LABEL


class Head(NamedTuple):
    """What turns hidden states into logits; see `fused_objective`."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    logit_scale: float = 1.0


class GoldNats(NamedTuple):
    """-log p of the true token at M positions that have a label and a target, float32 or float64."""

    rows_M: Tensor  # which positions
    student_M: Tensor
    target_M: Tensor  # infinite where the target rules the true token out


@torch.no_grad()
def gold_nats(
    hidden_NH: Tensor,
    head: Head,
    labels_N: Tensor,
    targets: SparseTargets,
    *,
    residual: str = "bucket",
    chunk: int = 256,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> GoldNats:
    """Return what student and target give the true tokens, at the positions that both have something to say about.

    In the support the target gives the kept probability. Outside it gives the mass that the residual rule leaves,
    times the share the true token has of the student's own mass outside: the loss leaves it spread so. Both are at
    temperature 1. `dtype` is that of the matrix products.
    """
    rows_M = ((labels_N != NO_LABEL) & targets.served_N).nonzero()[:, 0]
    dtype = dtype or hidden_NH.dtype
    wide = torch.promote_types(dtype, torch.float32)
    nothing_M = torch.zeros(len(rows_M), device=rows_M.device)
    points = positions(labels_N[rows_M], targets.take(rows_M), PositionWeights(nothing_M, nothing_M), residual, wide)
    exact = dtype != torch.bfloat16 or head.bias_V is not None or head.logit_scale != 1
    passes = passes_for(backend, hidden_NH.device, wide if exact else dtype)
    found = [(nothing_M[:0].to(wide), nothing_M[:0].to(wide))]
    with torch.autocast(hidden_NH.device.type, enabled=False):
        weight_VH = head.weight_VH.to(dtype)
        for start in range(0, len(rows_M), chunk):
            part = slice(start, start + chunk)
            logits_CV = _logits(hidden_NH[rows_M[part]].to(dtype) @ weight_VH.T, head, wide if exact else dtype)
            found.append(_compare(logits_CV, *points.chunk(part), passes, Shape(head.softcap)))
    student_M, target_M = (torch.cat(parts) for parts in zip(*found, strict=True))
    return GoldNats(rows_M, student_M, target_M)


def open_sequences(found: GoldNats, sequence_N: Tensor, sequences: int) -> Tensor:
    """Return for each sequence [G] whether its targets give its true tokens more than the student does, all together.

    `sequence_N`: the number of each position's sequence. One without a target is not open.
    """
    gained_M = found.student_M.double() - found.target_M.double()
    gained_G = torch.zeros(sequences, dtype=torch.float64, device=gained_M.device)
    return gained_G.index_add_(0, sequence_N[found.rows_M], gained_M) > 0


def _logits(logits_CV: Tensor, head: Head, dtype: torch.dtype) -> Tensor:
    logits_CV = logits_CV.to(dtype)
    if head.bias_V is not None:
        logits_CV += head.bias_V
    return logits_CV * head.logit_scale if head.logit_scale != 1 else logits_CV


def _compare(
    logits_CV: Tensor, chunk: ChunkTargets, matched: Matched, passes: Passes, shape: Shape
) -> tuple[Tensor, Tensor]:
    """Return a chunk's nats of student and target. The logits are scratch afterwards."""
    student_C, log_out_C = losses_and_gradient_(logits_CV, chunk, matched, _mass_outside, passes, shape, gradient=False)
    kept_C = (matched.kept_NK * chunk.gold_CK).sum(-1)
    outside_C = matched.rest_N.log() - student_C - log_out_C
    return student_C, -torch.where(chunk.gold_CK.any(-1), kept_C.log(), outside_C)


def _mass_outside(matched: Matched, student: Student) -> Compared:
    """Hand the student's log mass outside the support on, in a divergence's place."""
    return Compared(student.log_out_C, torch.zeros_like(student.logq_CK), torch.zeros_like(student.log_out_C))
