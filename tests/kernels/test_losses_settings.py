"""What the training settings ask of the loss reaches it: schedules of λ, divergences, temperature, controls."""

import math

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

from logitfuse.kernels.losses.reference import objective_reference
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import by_position, by_reward, by_sequence
from logitfuse.storage.settings import changed_settings
from logitfuse.tasks.training.objective import Objective
from logitfuse.tasks.training.schedule import clm_weight
from logitfuse.tasks.training.settings import TrainSettings, control_of

VOCABULARY = 37
LENGTHS = (5, 3)


def schedule(kind: str, steps: int = 5, **options: float) -> list[float]:
    settings = TrainSettings(clm_weight_schedule=kind, **options)
    return [clm_weight(step, steps, settings) for step in range(steps)]


def test_schedules_of_lambda():
    assert schedule("linear", clm_weight=0.5) == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0])
    assert schedule("linear", clm_weight=0.9, clm_weight_end=0.1) == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])
    half = 0.5 - 0.5 * math.cos(math.pi / 4)
    assert schedule("cosine", clm_weight=0.0) == pytest.approx([0, half, 0.5, 1 - half, 1])
    assert schedule("linear", steps=1, clm_weight=0.5) == [0.5]


@pytest.mark.parametrize("kind", ["constant", "to_one", "linear", "cosine", "reward"])
def test_a_control_has_lambda_one_throughout(kind):
    control = control_of(TrainSettings(clm_weight=0.3, clm_weight_end=0.2, clm_weight_schedule=kind, control=True))
    assert [clm_weight(step, 7, control) for step in range(7)] == [1.0] * 7
    assert control.clm_weight_schedule in ("constant", "to_one")


def test_combinations_without_meaning_are_refused():
    with pytest.raises(ValidationError, match="do not add up to 1"):
        TrainSettings(divergence="jsd", residual="as_given")
    with pytest.raises(ValidationError, match="Did you mean 'reverse_kl'"):
        TrainSettings(divergence="reverse_k")
    with pytest.raises(ValidationError, match="mixing"):
        TrainSettings(divergence="jsd", divergence_options={"mixing": 0})
    with pytest.raises(ValidationError, match="no option 'mixing'"):
        TrainSettings(divergence="kl", divergence_options={"mixing": 0.5})


def test_defaults_spelt_out_change_no_key():
    spelt = TrainSettings(
        divergence="cross_entropy", divergence_options={}, temperature=1, temperature_squared=False,
        clm_weight_schedule="constant", clm_weight_end=1, loss_backend="auto",
    )  # fmt: skip
    assert changed_settings(spelt) == {}
    assert changed_settings(TrainSettings(divergence="jsd", divergence_options={"mixing": 0.5})) == {
        "divergence": "jsd"
    }


def test_forms_list_the_divergences():
    assert set(TrainSettings.model_json_schema()["properties"]["divergence"]["enum"]) >= {"jsd", "kl", "reverse_kl"}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("weighting", ["position", "sequence"])
@pytest.mark.parametrize("schedule_of", ["constant", "reward"])
def test_the_objective_is_the_reference(model, packed, weighting, schedule_of):
    """A tied head, λ by reward, JSD at a temperature: all as the settings say."""
    settings = TrainSettings(
        weighting=weighting, clm_weight_schedule=schedule_of, divergence="jsd", divergence_options={"mixing": 0.3},
        temperature=2.0, temperature_squared=True, dtype="fp32", loss_chunk=3,
    )  # fmt: skip
    objective = Objective(model, settings)
    draw = torch.Generator().manual_seed(1)
    B, T = (1, sum(LENGTHS)) if packed else (len(LENGTHS), max(LENGTHS))
    mask_BT = torch.ones(B, T, dtype=torch.int64)
    if not packed:
        mask_BT[1, LENGTHS[1] :] = 0
    inputs_BT = torch.randint(VOCABULARY, (B, T), generator=draw) * mask_BT
    labels_BT = torch.randint(VOCABULARY, (B, T), generator=draw).masked_fill(mask_BT == 0, -100)
    served_N = (torch.rand(B * T, generator=draw) < 0.7) & mask_BT.flatten().bool()
    probs_NK = 0.9 * torch.rand(B * T, 3, generator=draw).softmax(-1)
    ids_NK = torch.rand(B * T, VOCABULARY, generator=draw).argsort(-1)[:, :3]
    targets = SparseTargets(ids_NK, probs_NK, 1 - probs_NK.sum(-1), served_N)
    scores_DS = torch.tensor([[0.5, 1.5], [float("nan"), 0.9]])
    parts = objective(
        inputs_BT, mask_BT, labels_BT, targets, 8.0, 0.9, LENGTHS if packed else None, scores_DS=scores_DS
    )
    parts.loss.backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    each_D = by_reward(scores_DS) if schedule_of == "reward" else torch.full((2,), 0.9, dtype=torch.float64)
    rows = [slice(0, LENGTHS[0]), slice(LENGTHS[0] if packed else T, sum(LENGTHS) if packed else T + LENGTHS[1])]
    losses = []
    for part, weight in zip(rows, each_D.tolist(), strict=True):
        labels_T, of_part = labels_BT.flatten()[part], targets.take(torch.arange(B * T)[part])
        hidden_TH = model.model(inputs_BT.flatten()[part][None]).last_hidden_state[0]
        if weighting == "position":
            weights = by_position(labels_T, of_part.served_N, clm_weight=weight, normaliser=8.0)
        else:
            mask_1T = torch.ones_like(labels_T)[None]
            weights = by_sequence(labels_T[None], mask_1T, of_part.served_N, clm_weight=weight, normaliser=8.0)
        loss, *_ = objective_reference(
            hidden_TH, model.lm_head.weight, labels_T, of_part, weights, divergence="jsd",
            divergence_options={"mixing": 0.3}, temperature=2.0, temperature_squared=True,
        )  # fmt: skip
        losses.append(loss)
    torch.stack(losses).sum().backward()
    assert parts.loss.item() == pytest.approx(sum(losses).item(), rel=1e-5)
    for found, parameter in zip(grads, model.parameters(), strict=True):
        assert (found - parameter.grad).norm() <= 1e-4 * parameter.grad.norm()
    model.zero_grad()


def test_the_objective_in_float64(model):
    inputs_BT = torch.arange(12).view(2, 6) % VOCABULARY
    arguments = inputs_BT, torch.ones_like(inputs_BT), inputs_BT + 1
    targets = SparseTargets(
        torch.full((12, 1), 3), torch.full((12, 1), 0.5), torch.full((12,), 0.5), torch.ones(12) > 0
    )
    loss = Objective(model.double(), TrainSettings(dtype="bf16"))(*arguments, targets, 12.0, 0.9).loss
    assert loss.dtype == torch.float64
    loss.backward()
    assert all(parameter.grad.dtype == torch.float64 for parameter in model.parameters())
    model.float().zero_grad()
