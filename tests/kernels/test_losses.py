"""The fused objective is the dense float64 reference, in value and in gradient."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.reference import objective_reference
from logitfuse.kernels.losses.residuals import RESIDUALS
from logitfuse.kernels.losses.targets import SparseTargets, unserved
from logitfuse.kernels.losses.weights import by_position, by_sequence
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.kernels.registry import UnknownName

HIDDEN = 8
ruled = pytest.mark.parametrize("residual", ["bucket", "renormalise", "as_given"])


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


def both(case: Case, dtype=torch.float32, *, clm_weight=0.9, normaliser=11.0, **options):
    """Return the parts and gradients of the fast one and of the reference."""
    results = []
    for objective in (fused_objective, objective_reference):
        extra = {"chunk": 3} if objective is fused_objective else {}
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
        # softmax - target cancels where the student already is the target: float32 has no more digits there.
        rounding = 1e-7 * case.hidden_NH.abs().amax().clamp(min=1)
        norm = wanted.double().norm()
        assert (gradient.double() - wanted.double()).norm() <= tolerance * norm + rounding


@given(
    seed=st.integers(0, 2**31),
    positions=st.integers(1, 9),
    vocabulary=st.sampled_from([2, 17, 64, 101]),
    kept=st.integers(1, 8),
    tail=st.sampled_from([0.0, 1e-4, 0.3, 1.0]),
    bias=st.booleans(),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    residual=st.sampled_from(["bucket", "renormalise", "as_given"]),
    divergence=st.sampled_from(["cross_entropy", "kl"]),
    per_sequence=st.booleans(),
    softcap=st.sampled_from([None, 5.0, 30.0]),
    logit_scale=st.sampled_from([1.0, 0.0625]),
    clm_weight=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
@settings(max_examples=250, deadline=None)
def test_fused_is_the_reference(
    seed, positions, vocabulary, kept, tail, bias, spread, residual, divergence, per_sequence, softcap, logit_scale,
    clm_weight,
):  # fmt: skip
    case = make_case(
        seed, positions=positions, vocabulary=vocabulary, kept=min(kept, vocabulary), tail=tail, bias=bias,
        spread=spread,
    )._replace(per_sequence=per_sequence)  # fmt: skip
    options = {"residual": residual, "divergence": divergence, "softcap": softcap, "logit_scale": logit_scale}
    check_equal(case, clm_weight=clm_weight, **options)


@ruled
@pytest.mark.parametrize("gold_inside", [True, False])
def test_gold_inside_and_outside_the_support(residual, gold_inside):
    case = make_case(1, kept=1, tail=0.4, served=2, labelled=2)
    gold_N = case.targets.ids_NK[:, 0] if gold_inside else (case.targets.ids_NK[:, 0] + 1) % 33
    check_equal(case._replace(labels_N=gold_N), residual=residual)


@ruled
def test_whole_vocabulary_as_support(residual):
    check_equal(make_case(2, vocabulary=6, kept=6, tail=0.0), residual=residual)


def test_bucket_scales_the_gradient_outside_the_support():
    case = make_case(3, positions=1, tail=0.5, served=2, labelled=2)
    logits_1V = (case.hidden_NH @ case.weight_VH.T).requires_grad_()
    eye_VV = torch.eye(33)
    fused_objective(logits_1V, eye_VV, case.labels_N, case.targets, case.weights()).loss.backward()
    outside_V = torch.ones(33, dtype=torch.bool)
    outside_V[case.targets.ids_NK[0, case.targets.probs_NK[0] > 0]] = False
    softmax_V = logits_1V.detach().softmax(-1)[0]
    scale = 1 - 0.1 * case.targets.tail_N[0] / softmax_V[outside_V].sum()
    outside_V[case.labels_N] = False
    torch.testing.assert_close(logits_1V.grad[0, outside_V], (scale * softmax_V)[outside_V])


@ruled
def test_a_sure_student_keeps_its_digits(residual):
    """The mass outside the support is 1e-12 here: 1 - Σ inside would be pure rounding."""
    case = make_case(4, positions=3, kept=2, tail=0.3, served=2, labelled=2)
    logits_NV = torch.randn(3, 33, generator=torch.Generator().manual_seed(0))
    logits_NV.scatter_add_(1, case.targets.ids_NK[:, :1], torch.full((3, 1), 30.0))
    case = case._replace(hidden_NH=logits_NV, weight_VH=torch.eye(33))
    check_equal(case, residual=residual)


def test_a_student_with_nothing_outside_stays_finite():
    case = make_case(5, positions=2, kept=1, tail=0.5, served=2, labelled=2)
    logits_NV = torch.zeros(2, 33).scatter_add(1, case.targets.ids_NK, torch.full((2, 1), 500.0))
    case = case._replace(hidden_NH=logits_NV, weight_VH=torch.eye(33))
    check_equal(case)
    assert all(gradient.isfinite().all() for gradient in both(case)[0][1])


@pytest.mark.parametrize("positions", [0, 4])
def test_nothing_labelled_is_zero_and_not_nan(positions):
    case = make_case(6, positions=max(positions, 1), labelled=0)
    if positions == 0:
        case = case._replace(hidden_NH=case.hidden_NH[:0], labels_N=case.labels_N[:0])
        case = case._replace(targets=case.targets.take(torch.arange(0)))
    hidden_NH, weight_VH = case.hidden_NH.requires_grad_(), case.weight_VH.requires_grad_()
    parts = fused_objective(hidden_NH, weight_VH, case.labels_N, case.targets, case.weights())
    parts.loss.backward()
    assert [part.item() for part in parts] == [0, 0, 0, 0, 0]
    assert not hidden_NH.grad.any() and not weight_VH.grad.any()


def test_counts_and_sums():
    case = make_case(7, positions=50)
    parts = fused_objective(case.hidden_NH, case.weight_VH, case.labels_N, case.targets, case.weights(0.5))
    labelled_N = case.labels_N != NO_LABEL
    assert parts.labelled == labelled_N.sum()
    assert parts.served == (labelled_N & case.targets.served_N).sum()
    assert not parts.loss.requires_grad


def test_without_targets_it_is_the_plain_loss():
    case = make_case(8, positions=20)._replace(targets=unserved(20))
    weights = case.weights(0.3, (case.labels_N != NO_LABEL).sum().item())
    parts = fused_objective(case.hidden_NH, case.weight_VH, case.labels_N, case.targets, weights)
    logits_NV = case.hidden_NH @ case.weight_VH.T
    torch.testing.assert_close(parts.loss, torch.nn.functional.cross_entropy(logits_NV, case.labels_N))


def test_unserved_positions_weigh_one():
    case = make_case(9, positions=20, served=0)
    for weight in (0.0, 0.9):
        (parts, gradients), _ = both(case, clm_weight=weight)
        assert parts[0].item() == pytest.approx(parts[1].item() / 11)
        assert gradients[0].any()


def test_chunk_size_does_not_change_the_result():
    case = make_case(10, positions=23)
    wanted, *rest = [
        fused_objective(case.hidden_NH, case.weight_VH, case.labels_N, case.targets, case.weights(), chunk=chunk).loss
        for chunk in (1, 7, 23, 256)
    ]
    for loss in rest:
        torch.testing.assert_close(loss, wanted)


def test_tied_embeddings_gather_both_gradients():
    case = make_case(11, positions=12)
    tokens_N = torch.arange(12) % 33

    def gradient(objective):
        table_VH = case.weight_VH.clone().requires_grad_()
        hidden_NH = torch.tanh(table_VH[tokens_N]) + case.hidden_NH
        parts = objective(hidden_NH, table_VH, case.labels_N, case.targets, case.weights(0.9, 12))
        (2 * parts[0]).backward()
        return table_VH.grad

    torch.testing.assert_close(gradient(fused_objective), gradient(objective_reference), rtol=1e-4, atol=1e-6)


@ruled
def test_bf16_stays_near_the_reference(residual):
    case = make_case(12, positions=40, vocabulary=257, bias=True)
    rounded = case._replace(hidden_NH=case.hidden_NH.bfloat16(), weight_VH=case.weight_VH.bfloat16())
    check_equal(rounded, tolerance=2e-2, dtype=torch.bfloat16, residual=residual)


def test_stated_dtype_holds_under_autocast():
    case = make_case(13, positions=40)
    arguments = (case.hidden_NH, case.weight_VH, case.labels_N, case.targets, case.weights())
    plain = fused_objective(*arguments).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused_objective(*arguments).loss == plain
        rough = fused_objective(*arguments, dtype=torch.bfloat16).loss
    assert rough != plain and rough.item() == pytest.approx(plain.item(), rel=1e-2)


def test_padding_ids_are_never_read():
    case = make_case(14, positions=30)
    targets = case.targets
    wild = targets._replace(ids_NK=targets.ids_NK.masked_fill(targets.probs_NK == 0, -7))
    weights = case.weights(0.5)
    tame_loss = fused_objective(case.hidden_NH, case.weight_VH, case.labels_N, targets, weights).loss
    assert fused_objective(case.hidden_NH, case.weight_VH, case.labels_N, wild, weights).loss == tame_loss


def test_residuals_are_found_by_name():
    assert {"bucket", "renormalise", "as_given"} <= set(RESIDUALS.names())
    with pytest.raises(UnknownName, match="bucket"):
        RESIDUALS.get("buket")
