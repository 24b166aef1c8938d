"""Packed sequences are learnt as each one alone: losses and gradients, with tiny weights; and a leak would be seen."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
)

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models import packing
from logitfuse.tasks.training import batching
from logitfuse.tasks.training.batch import Batch, collate
from logitfuse.tasks.training.data import Example
from logitfuse.tasks.training.objective import Objective
from logitfuse.tasks.training.settings import TrainSettings

V, K, WINDOW = 97, 4, 8
SHAPE = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = SHAPE | {"intermediate_size": 48, "max_position_embeddings": 64}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDE, num_key_value_heads=1)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE)),
    "gemma-3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**WIDE, num_key_value_heads=1, head_dim=16, sliding_window=WINDOW)
    ),
    "mpt": lambda: MptForCausalLM(
        MptConfig(d_model=32, n_heads=2, n_layers=2, expansion_ratio=2, max_seq_len=64, vocab_size=V)
    ),
}
PACKED = ["llama", "gpt-neox", "gemma-3"]
LENGTHS = (13, 1, 20, 5, 9)  # some longer than a layer's window


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # sure enough of something that texts which see each other would show
    return model


def checkpointed(model: PreTrainedModel) -> PreTrainedModel:
    # Renamed in transformers 5.23; the old name goes with 6.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    return model


def settings(**changes) -> TrainSettings:
    return TrainSettings(**{"dtype": "fp32", "loss_chunk": 16, **changes})


def example(number: int, length: int) -> Example:
    draw = np.random.default_rng(number)
    tokens = draw.integers(1, V, length + 1).astype(np.int32)
    counts = draw.integers(0, K, length).astype(np.int32)
    ids = [draw.permutation(V)[:count] for count in counts]
    probs = [draw.dirichlet(np.ones(count + 1))[:count] for count in counts]
    return Example(
        f"doc-{number}", tokens[:-1], tokens[1:], counts, np.array([p.sum() for p in probs], np.float32),
        np.concatenate([*ids, []]).astype(np.int32), np.log(np.concatenate([*probs, []])).astype(np.float32),
        np.zeros(1, np.float32),
    )  # fmt: skip


EXAMPLES = [example(number, length) for number, length in enumerate(LENGTHS)]


def learnt(objective: Objective, batches: list[Batch]) -> tuple[Tensor, list[Tensor]]:
    """Return the summed loss and the gradients of all weights."""
    objective.zero_grad()
    losses = []
    for batch in batches:
        parts = objective(*batch[:4], 7.0, 0.7, batch.lengths)
        parts.loss.backward()
        losses.append(parts.loss.detach().double())
    return torch.stack(losses).sum(), [p.grad.clone() for p in objective.parameters() if p.grad is not None]


def off(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the difference of all gradients together, of their length."""
    difference = torch.stack([(a.double() - b.double()).norm() for a, b in zip(found, wanted, strict=True)]).norm()
    return float(difference / torch.stack([b.double().norm() for b in wanted]).norm())


def alone(objective: Objective) -> tuple[Tensor, list[Tensor]]:
    return learnt(objective, [collate([one]) for one in EXAMPLES])


@pytest.mark.parametrize("weighting", ["position", "sequence"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", PACKED)
def test_packed_is_what_each_text_is_alone(name: str, checkpointing: bool, weighting: str) -> None:
    model = checkpointed(made(name)) if checkpointing else made(name)
    objective = Objective(model, settings(weighting=weighting)).train()
    assert objective.batching.packed, objective.batching
    wanted, wanted_gradients = alone(objective)
    found, gradients = learnt(objective, [collate(EXAMPLES, packed=True)])
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    assert off(gradients, wanted_gradients) < 1e-6
    padded, padded_gradients = learnt(objective, [collate(EXAMPLES)])
    assert float(padded) == pytest.approx(float(wanted), rel=1e-6)
    assert off(padded_gradients, wanted_gradients) < 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", PACKED)
def test_a_leak_would_be_seen(name: str, checkpointing: bool) -> None:
    """The same row read as one text: what the test above allows is far below what seeing one's neighbours does."""
    model = checkpointed(made(name)) if checkpointing else made(name)
    objective = Objective(model, settings()).train()
    wanted, wanted_gradients = alone(objective)
    leaking = collate(EXAMPLES, packed=True)._replace(lengths=(sum(LENGTHS),))
    found, gradients = learnt(objective, [leaking])
    assert abs(float(found / wanted) - 1) > 1e-4
    assert off(gradients, wanted_gradients) > 0.05


def test_what_cannot_be_packed_is_padded_and_says_so() -> None:
    objective = Objective(made("mpt"), settings())
    assert not objective.batching.packed and "otherwise than alone" in objective.batching.why
    wanted, wanted_gradients = alone(objective)
    found, gradients = learnt(objective, [collate(EXAMPLES)])
    assert float(found) == pytest.approx(float(wanted), rel=1e-6) and off(gradients, wanted_gradients) < 1e-6
    with pytest.raises(ModelRefused, match=r"'mpt' cannot read packed texts.*batching to auto"):
        Objective(made("mpt"), settings(batching="packed"))


def test_padding_can_be_asked_for() -> None:
    objective = Objective(made("llama"), settings(batching="padded"))
    assert not objective.batching.packed and "as set" in objective.batching.why
    assert objective.model.config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_autocast_packs_too() -> None:
    objective = Objective(made("llama"), settings(dtype="bf16")).train()
    wanted, wanted_gradients = alone(objective)
    found, gradients = learnt(objective, [collate(EXAMPLES, packed=True)])
    assert float(found) == pytest.approx(float(wanted), rel=2e-2)
    assert off(gradients, wanted_gradients) < 0.1


def test_attention_dropout_is_kept() -> None:
    torch.manual_seed(0)
    config = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    model = GPT2LMHeadModel(
        GPT2Config(**config, bos_token_id=1, eos_token_id=2, attn_pdrop=0.5, resid_pdrop=0.0, embd_pdrop=0.0)
    )
    objective = Objective(model, settings())
    assert objective.batching.packed, objective.batching
    batch = collate(EXAMPLES, packed=True)
    for training, different in ((True, 3), (False, 1)):
        objective.train(training)
        losses = [objective(*batch[:4], 1.0, 0.7, batch.lengths).loss.item() for _ in range(3)]
        assert len(set(losses)) == different


def test_masks_made_when_a_layer_runs_again_are_refused() -> None:
    """A checkpointed layer that asked for its own mask would find its row gone and let texts see each other."""
    model = made("llama")
    packing.attend_by_text(model)

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            model(input_ids=torch.arange(1, 5)[None], use_cache=False)
            return gradient

    with pytest.raises(packing.CannotPack, match="masks themselves"):
        Again.apply(torch.ones(1, requires_grad=True)).backward()


def test_gradients_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hidden states agree and gradients do not, a model is padded."""

    def cut(model, ids, lengths, one_kernel):
        hidden = original(model, ids, lengths, one_kernel)
        return hidden.detach() + 0.5 * (hidden - hidden.detach())

    original = batching.read_row
    monkeypatch.setattr(batching, "read_row", cut)
    chosen = batching.choose_batching(made("llama"), settings(), torch.device("cpu"), torch.float32)
    assert not chosen.packed and "gradients come out otherwise" in chosen.why


def test_one_kernel_is_tried_and_only_used_where_it_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, heads = torch.device("cpu"), (4, 2, 8)
    assert packing.one_kernel_fails(heads, cpu, torch.float32)  # no such kernel on a CPU
    right = lambda query, key, value, row, scale: packing._one_by_one(query, key, value, row)  # noqa: E731
    monkeypatch.setattr(packing, "_varlen", right)
    assert packing.one_kernel_fails(heads, cpu, torch.float32) is None
    leaks = lambda query, key, value, row, scale: packing._one_by_one(  # noqa: E731
        query, key, value, packing.Row([sum(row.lengths)], True)
    )
    monkeypatch.setattr(packing, "_varlen", leaks)
    assert "off by" in (packing.one_kernel_fails(heads, cpu, torch.float32) or "")
    no_gradient = lambda query, key, value, row, scale: right(query.detach(), key, value, row, scale)  # noqa: E731
    monkeypatch.setattr(packing, "_varlen", no_gradient)
    assert packing.one_kernel_fails(heads, cpu, torch.float32)


def test_the_kernel_gets_the_whole_row_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `one_kernel` full layers go through the kernel, layers with a window that a text exceeds text by text."""
    calls: list[list[int]] = []

    def kernel(query, key, value, row, scale):
        calls.append(row.lengths)
        return packing._one_by_one(query, key, value, row)

    monkeypatch.setattr(packing, "_varlen", kernel)
    objective = Objective(made("llama"), settings())
    objective.batching = objective.batching._replace(one_kernel=True)
    wanted, wanted_gradients = alone(objective)
    found, gradients = learnt(objective, [collate(EXAMPLES, packed=True)])
    assert calls == [list(LENGTHS)] * 2
    assert float(found) == pytest.approx(float(wanted), rel=1e-6) and off(gradients, wanted_gradients) < 1e-6


def test_nothing_can_be_packed_too() -> None:
    objective = Objective(made("llama"), settings())
    blank = collate([], packed=True)
    assert blank.lengths == (1,) and blank.labels_BT.tolist() == [[NO_LABEL]]
    loss, gradients = learnt(objective, [blank])
    assert float(loss) == 0 and all(not g.any() for g in gradients)


def test_packed_targets_are_the_padded_ones_without_the_padding() -> None:
    packed, padded = collate(EXAMPLES, packed=True), collate(EXAMPLES)
    there_N = padded.mask_BT.flatten().bool()
    assert packed.inputs_BT.shape == (1, sum(LENGTHS)) and packed.mask_BT.all() and packed.lengths == LENGTHS
    for row, full in ((packed.inputs_BT, padded.inputs_BT), (packed.labels_BT, padded.labels_BT)):
        assert torch.equal(row[0], full.flatten()[there_N])
    for column, full in zip(packed.targets, padded.targets, strict=True):
        assert torch.equal(column, full[there_N])
