"""Temperature, divergences at their limits, and λ by reward or position."""

import pytest
import torch
from loss_cases import compared, make_case

from logitfuse.kernels.losses.divergences import DIVERGENCES, NoMeaning, check_meaning
from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import by_position, by_reward
from logitfuse.kernels.registry import BadOption, UnknownName


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
