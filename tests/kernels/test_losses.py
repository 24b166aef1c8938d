"""The fused objective is the dense float64 reference, in value and in gradient."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loss_cases import COMPARED, RESIDUAL_RULES, both, check_equal, compared, has_meaning, make_case, ruled, tempered

from logitfuse.kernels.losses.divergences import DIVERGENCES
from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.reference import objective_reference
from logitfuse.kernels.losses.residuals import RESIDUALS
from logitfuse.kernels.losses.targets import unserved
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.kernels.registry import UnknownName


@given(
    seed=st.integers(0, 2**31),
    positions=st.integers(1, 9),
    vocabulary=st.sampled_from([2, 17, 64, 101]),
    kept=st.integers(1, 8),
    tail=st.sampled_from([0.0, 1e-4, 0.3, 1.0]),
    bias=st.booleans(),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    residual=st.sampled_from(RESIDUAL_RULES),
    divergence=st.sampled_from(COMPARED),
    temperature=st.sampled_from([1.0, 0.3, 2.0, 10.0]),
    squared=st.booleans(),
    backend=st.sampled_from(["numba", "torch"]),
    per_sequence=st.booleans(),
    softcap=st.sampled_from([None, 5.0, 30.0]),
    logit_scale=st.sampled_from([1.0, 0.0625]),
    clm_weight=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
@settings(max_examples=400, deadline=None)
def test_fused_is_the_reference(
    seed, positions, vocabulary, kept, tail, bias, spread, residual, divergence, temperature, squared, backend,
    per_sequence, softcap, logit_scale, clm_weight,
):  # fmt: skip
    assume(has_meaning(divergence[0], residual))
    case = make_case(
        seed, positions=positions, vocabulary=vocabulary, kept=min(kept, vocabulary), tail=tail, bias=bias,
        spread=spread,
    )._replace(per_sequence=per_sequence)  # fmt: skip
    check_equal(
        case, clm_weight=clm_weight, backend=backend, residual=residual, divergence=divergence[0],
        divergence_options=divergence[1], temperature=temperature, temperature_squared=squared, softcap=softcap,
        logit_scale=logit_scale,
    )  # fmt: skip


@ruled
@compared
@tempered
@pytest.mark.parametrize("kept", [1, 4])
@pytest.mark.parametrize("gold_inside", [True, False])
def test_every_combination(residual, divergence, options, temperature, kept, gold_inside):
    if not has_meaning(divergence, residual):
        pytest.skip("refused")
    case = make_case(21, positions=6, vocabulary=33, kept=kept, tail=0.4, served=2, labelled=2, bias=True)
    gold_N = case.targets.ids_NK[:, 0] if gold_inside else (case.targets.ids_NK.amax(-1) + 1) % 33
    combined = {"residual": residual, "divergence": divergence, "divergence_options": options, "softcap": 8.0}
    check_equal(case._replace(labels_N=gold_N), clm_weight=0.4, temperature=temperature, **combined)
    check_equal(case._replace(labels_N=gold_N), 1e-12, torch.float64, temperature=temperature, **combined)


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


def test_padding_ids_are_never_read():
    case = make_case(14, positions=30)
    targets = case.targets
    wild = targets._replace(ids_NK=targets.ids_NK.masked_fill(targets.probs_NK == 0, -7))
    weights = case.weights(0.5)
    tame_loss = fused_objective(case.hidden_NH, case.weight_VH, case.labels_N, targets, weights).loss
    assert fused_objective(case.hidden_NH, case.weight_VH, case.labels_N, wild, weights).loss == tame_loss


def test_residuals_are_found_by_name():
    assert {"cross_entropy", "kl", "reverse_kl", "jsd"} <= set(DIVERGENCES.names())
    assert {"bucket", "renormalise", "as_given"} <= set(RESIDUALS.names())
    with pytest.raises(UnknownName, match="bucket"):
        RESIDUALS.get("buket")
