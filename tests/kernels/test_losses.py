"""The fused objective is the dense float64 reference, in value and in gradient."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from logitfuse.kernels.losses.divergences import DIVERGENCES, NoMeaning, check_meaning
from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.reference import objective_reference
from logitfuse.kernels.losses.residuals import RESIDUALS
from logitfuse.kernels.losses.targets import SparseTargets, unserved
from logitfuse.kernels.losses.weights import by_position, by_reward, by_sequence
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.kernels.registry import BadOption, UnknownName

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


def test_float64_is_float64_to_the_end():
    case = make_case(15, positions=12, bias=True)
    hidden_NH = case.hidden_NH.double().requires_grad_()
    arguments = case.weight_VH.double(), case.labels_N, case.targets, case.weights()
    parts = fused_objective(hidden_NH, *arguments, bias_V=case.bias_V.double())
    parts.loss.backward()
    assert parts.loss.dtype == hidden_NH.grad.dtype == torch.float64


def test_temperature_is_the_fused_losses_alone():
    case = make_case(16, positions=12, served=0)
    arguments = case.hidden_NH, case.weight_VH, case.labels_N, case.targets, case.weights()
    assert fused_objective(*arguments, temperature=3.0).loss == fused_objective(*arguments).loss


def test_temperature_squared_is_a_factor_of_the_fused_loss():
    case = make_case(17, positions=12, served=2, labelled=2)
    arguments = case.hidden_NH, case.weight_VH, case.labels_N, case.targets, case.weights(0.0)
    plain, squared = (fused_objective(*arguments, temperature=3.0, temperature_squared=b) for b in (False, True))
    torch.testing.assert_close(squared.loss, 9 * plain.loss)
    assert squared.fusion_sum == plain.fusion_sum


@pytest.mark.parametrize("residual", ["bucket", "renormalise"])
def test_divergences_at_their_limits(residual):
    """JSD over its mixing is the forward KL as it goes to 0, over 1 - mixing the reverse one as it goes to 1."""
    case = make_case(18, positions=12, tail=0.3, served=2, labelled=2)
    arguments = case.hidden_NH.double(), case.weight_VH.double(), case.labels_N, case.targets, case.weights()
    value = lambda name, **options: fused_objective(  # noqa: E731
        *arguments, residual=residual, divergence=name, divergence_options=options
    ).fusion_sum.item()
    assert value("jsd", mixing=1e-9) / 1e-9 == pytest.approx(value("kl"), rel=1e-3)
    if residual == "bucket":
        assert value("jsd", mixing=1 - 1e-9) / 1e-9 == pytest.approx(value("reverse_kl"), rel=1e-3)


@compared
@pytest.mark.parametrize("residual", ["bucket", "renormalise"])
def test_a_divergence_from_itself_is_nothing(residual, divergence, options):
    logits_NV = torch.randn(8, 9, generator=torch.Generator().manual_seed(19), dtype=torch.float64)
    kept = 9 if residual == "renormalise" else 4
    probs_NK = logits_NV.softmax(-1)[:, :kept]
    ids_NK, labels_N = torch.arange(kept).expand(8, kept), torch.arange(8)
    targets = SparseTargets(ids_NK, probs_NK, 1 - probs_NK.sum(-1), labels_N >= 0)
    weights = by_position(labels_N, targets.served_N, clm_weight=0.0, normaliser=8)
    hidden_NH = logits_NV.clone().requires_grad_()
    parts = fused_objective(
        hidden_NH, torch.eye(9).double(), labels_N, targets, weights, residual=residual, divergence=divergence,
        divergence_options=options,
    )  # fmt: skip
    parts.loss.backward()
    assert divergence == "cross_entropy" or abs(parts.loss.item()) < 1e-14
    assert hidden_NH.grad.abs().max() < 1e-14


def test_numbers_that_are_none_show():
    case = make_case(20, positions=5)
    for bad in (torch.nan, torch.inf):
        for backend in ("numba", "torch"):
            hidden_NH = case.hidden_NH.clone()
            hidden_NH[2, 3] = bad
            labels_N = case.labels_N.clamp(min=0)
            arguments = hidden_NH, case.weight_VH, labels_N, case.targets, case.weights()
            assert not fused_objective(*arguments, backend=backend).loss.isfinite()


def test_threads_change_no_bit():
    case = make_case(22, positions=64, vocabulary=501)
    hidden_NH, weight_VH = case.hidden_NH.bfloat16(), case.weight_VH.bfloat16()
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            leaf_NH = hidden_NH.clone().requires_grad_()
            fused_objective(leaf_NH, weight_VH, case.labels_N, case.targets, case.weights()).loss.backward()
            found.append(leaf_NH.grad)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, rtol=2e-2, atol=1e-4)  # the products' own sums differ


def test_what_has_no_meaning_is_refused():
    case = make_case(23)
    arguments = case.hidden_NH, case.weight_VH, case.labels_N, case.targets, case.weights()
    for divergence in ("reverse_kl", "jsd"):
        with pytest.raises(NoMeaning, match=r"do not add up to 1.*renormalise"):
            fused_objective(*arguments, residual="as_given", divergence=divergence)
        with pytest.raises(NoMeaning, match=divergence):
            check_meaning(divergence, "as_given", {})
    for divergence in DIVERGENCES.names():
        for residual in ("bucket", "renormalise"):
            check_meaning(divergence, residual, {})
    with pytest.raises(BadOption, match="mixing"):
        DIVERGENCES.check_options("jsd", {"mixing": 1.0})
    with pytest.raises(UnknownName, match="floor"):
        DIVERGENCES.check_options("reverse_kl", {"flor": 0.1})


def test_lambda_by_reward():
    scores_BS = torch.tensor([[0.5, 2.0], [torch.nan, 1.0], [torch.nan, torch.nan], [-1.0, 3.0]])
    wanted = 1 - torch.tensor([-0.5, -1.0, -torch.inf, 0.0], dtype=torch.float64).exp()
    torch.testing.assert_close(by_reward(scores_BS), wanted)
    assert by_reward(torch.zeros(3, 0)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("per_sequence", [False, True])
def test_lambda_of_each_position(per_sequence):
    case = make_case(24, positions=6, served=2, labelled=2)._replace(per_sequence=per_sequence)
    each_N = torch.linspace(0, 1, 6).double()
    clm_N, fusion_N = case.weights(each_N)
    for t, weight in enumerate(each_N.tolist()):
        one = case.weights(weight)
        assert (clm_N[t], fusion_N[t]) == (one.clm_N[t], one.fusion_N[t])


def test_residuals_are_found_by_name():
    assert {"cross_entropy", "kl", "reverse_kl", "jsd"} <= set(DIVERGENCES.names())
    assert {"bucket", "renormalise", "as_given"} <= set(RESIDUALS.names())
    with pytest.raises(UnknownName, match="bucket"):
        RESIDUALS.get("buket")
