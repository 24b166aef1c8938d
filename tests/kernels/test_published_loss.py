"""The fused objective with published weights is the published loss, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published.loss import decayed, distribution, published_loss

from logitfuse.kernels.losses.fused import fused_objective
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import by_sequence
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.tasks.training.schedule import clm_weight
from logitfuse.tasks.training.settings import TrainSettings

VOCABULARY = 23


def blocks(seed: int, lengths: list[int], temperature: float):
    """Draw sequences of random tokens with bfloat16 targets; return what either side reads."""
    draw = torch.Generator().manual_seed(seed)
    B, T, K = len(lengths), max(lengths), 4
    mask_BT = torch.stack([(torch.arange(T) < length).long() for length in lengths])
    inputs_BT = torch.randint(VOCABULARY, (B, T), generator=draw)
    ids_NK = torch.rand((B * T, VOCABULARY), generator=draw).argsort(-1)[:, :K]
    logits_NK = (4 * torch.randn((B * T, K), generator=draw)).half().float()
    dense_NV = torch.stack(
        [
            distribution(row.tolist(), ids.tolist(), VOCABULARY, temperature)
            for row, ids in zip(logits_NK, ids_NK, strict=True)
        ]
    )
    served_N = mask_BT.flatten().bool()
    probs_NK = dense_NV.float().gather(1, ids_NK) * served_N[:, None]
    targets = SparseTargets(ids_NK, probs_NK, (1 - probs_NK.sum(-1)).clamp(min=0) * served_N, served_N)
    labels_BT = inputs_BT.masked_fill(mask_BT == 0, NO_LABEL)
    logits_BTV = 3 * torch.randn((B, T, VOCABULARY), generator=draw)
    return logits_BTV, labels_BT, mask_BT, dense_NV.view(B, T, VOCABULARY), targets


@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(2, 7), min_size=1, max_size=3),
    temperature=st.sampled_from([1.0, 0.5, 2.0, 3.7]),
    weight=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    kind=st.sampled_from(["cross_entropy", "kl"]),
)
@settings(max_examples=150, deadline=None)
def test_the_objective_is_the_published_loss(seed, lengths, temperature, weight, kind):
    logits_BTV, labels_BT, mask_BT, dense_BTV, targets = blocks(seed, lengths, temperature)
    published_leaf = logits_BTV.clone().requires_grad_()
    wanted = published_loss(published_leaf, labels_BT, mask_BT, dense_BTV, weight, kind)
    wanted.backward()

    leaf = logits_BTV.clone().requires_grad_()
    next_BT = torch.cat([labels_BT[:, 1:], torch.full((len(lengths), 1), NO_LABEL)], dim=1)
    weights = by_sequence(next_BT, mask_BT, targets.served_N, clm_weight=weight, normaliser=len(lengths))
    parts = fused_objective(
        leaf.flatten(0, 1), torch.eye(VOCABULARY), next_BT.flatten(), targets, weights,
        residual="as_given", divergence=kind, chunk=3,
    )  # fmt: skip
    parts.loss.backward()
    assert parts.loss.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-5)
    torch.testing.assert_close(leaf.grad, published_leaf.grad, rtol=1e-4, atol=1e-6)


@given(st.sampled_from([0.0, 0.9, 1.0]), st.integers(0, 99))
def test_the_decay_of_lambda_is_the_published_one(weight, step):
    fading = TrainSettings(clm_weight=weight, clm_weight_schedule="to_one")
    assert clm_weight(step, 100, fading) == pytest.approx(decayed(weight, step, 100))
    assert clm_weight(step, 100, TrainSettings(clm_weight=weight)) == weight
