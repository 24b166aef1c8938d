"""Small cases of the fused objective, held against the dense float64 reference."""

from typing import NamedTuple

import pytest
import torch

from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.reference import objective_reference
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import by_position, by_sequence
from logitfuse.kernels.positions import NO_LABEL

HIDDEN = 8
RESIDUAL_RULES = ["bucket", "renormalise", "as_given"]
COMPARED = [  # with options; None stands for the defaults
    ("cross_entropy", None), ("kl", None), ("reverse_kl", None), ("reverse_kl", {"floor": 1e-3}), ("jsd", None),
    ("jsd", {"mixing": 0.1}), ("jsd", {"mixing": 0.9}),
]  # fmt: skip
ruled = pytest.mark.parametrize("residual", RESIDUAL_RULES)
compared = pytest.mark.parametrize(("divergence", "options"), COMPARED)
tempered = pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])


def has_meaning(divergence: str, residual: str) -> bool:
    return residual != "as_given" or divergence in ("cross_entropy", "kl")


class Case(NamedTuple):
    """One random problem: leaf tensors, labels, targets and options."""

    hidden_NH: torch.Tensor
    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    labels_N: torch.Tensor
    targets: SparseTargets
    per_sequence: bool = False  # published weights, all positions one sequence

    def weights(self, clm_weight=0.9, normaliser=1.0):
        if self.per_sequence:
            labels_BT = self.labels_N[None, :]
            mask_BT, served_N = torch.ones_like(labels_BT), self.targets.served_N
            return by_sequence(labels_BT, mask_BT, served_N, clm_weight=clm_weight, normaliser=normaliser)
        return by_position(self.labels_N, self.targets.served_N, clm_weight=clm_weight, normaliser=normaliser)


def make_case(
    seed: int, *, positions=7, vocabulary=33, kept=5, tail=0.2, served=0.7, labelled=0.8, bias=False, spread=3.0
) -> Case:
    """Draw a problem whose targets are padded at random and hold the label about half of the time."""
    draw = torch.Generator().manual_seed(seed)
    uniform = lambda *shape: torch.rand(shape, generator=draw)  # noqa: E731
    normal = lambda *shape: torch.randn(shape, generator=draw)  # noqa: E731
    labels_N = torch.randint(vocabulary, (positions,), generator=draw)
    order_NV = uniform(positions, vocabulary)
    gold_first_N = uniform(positions) < 0.5
    order_NV.scatter_add_(1, labels_N[:, None], gold_first_N[:, None].float())
    ids_NK = order_NV.argsort(-1, descending=True)[:, :kept]
    probs_NK = uniform(positions, kept) + 0.01
    probs_NK[:, 1:] *= uniform(positions, kept - 1) < 0.8
    tail_N = tail * uniform(positions)
    probs_NK *= ((1 - tail_N) / probs_NK.sum(-1))[:, None]
    targets = SparseTargets(ids_NK.masked_fill(probs_NK == 0, 0), probs_NK, tail_N, uniform(positions) < served)
    return Case(
        spread * normal(positions, HIDDEN) / HIDDEN**0.5,
        normal(vocabulary, HIDDEN),
        normal(vocabulary) if bias else None,
        labels_N.masked_fill(uniform(positions) >= labelled, NO_LABEL),
        targets,
    )


def both(case: Case, dtype=torch.float32, *, clm_weight=0.9, normaliser=11.0, backend="auto", **options):
    """Return the parts and gradients of the fast one and of the reference."""
    results = []
    for objective in (fused_objective, objective_reference):
        extra = {"chunk": 3, "backend": backend} if objective is fused_objective else {}
        leaves = [
            None if leaf is None else leaf.clone().to(dtype).requires_grad_()
            for leaf in (case.hidden_NH, case.weight_VH, case.bias_V)
        ]
        parts = objective(
            *leaves[:2], case.labels_N, case.targets, case.weights(clm_weight, normaliser), bias_V=leaves[2],
            **options, **extra,
        )  # fmt: skip
        parts[0].backward()
        results.append((parts[:3], [leaf.grad for leaf in leaves if leaf is not None]))
    return results


def check_equal(case: Case, tolerance: float = 1e-5, dtype=torch.float32, **options) -> None:
    (parts, gradients), (wanted_parts, wanted_gradients) = both(case, dtype, **options)
    for part, wanted in zip(parts, wanted_parts, strict=True):
        assert abs(part.item() - wanted.item()) <= tolerance * max(1, abs(wanted.item()))
    for gradient, wanted in zip(gradients, wanted_gradients, strict=True):
        assert gradient.dtype == dtype
        # softmax - target cancels where the student already is the target: its dtype has no more digits there.
        eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        rounding = 4 * eps * case.hidden_NH.abs().amax().clamp(min=1)
        norm = wanted.double().norm()
        assert (gradient.double() - wanted.double()).norm() <= tolerance * norm + rounding
