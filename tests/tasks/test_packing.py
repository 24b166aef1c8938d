"""Texts packed into one row come out as each one alone, or the model is found unfit for it; tiny random weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.capture_loop import Fitting, captured, in_order
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.models.body import run_body, run_packed
from logitfuse.tasks.models.causal import split_model
from logitfuse.tasks.models.packing import packed
from logitfuse.tasks.passages import Passage, packed_batches, sorted_batches

V, WINDOW = 300, 16
BASE: dict[str, Any] = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 256,
}  # fmt: skip
GROUPED = BASE | {"num_key_value_heads": 2}
SMALL = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

PACKED: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**BASE)),
    "gemma-3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=WINDOW)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=WINDOW)),
    "phi-3": lambda: Phi3ForCausalLM(Phi3Config(**GROUPED, **TOKENS, sliding_window=WINDOW)),
    "qwen-2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "gpt-2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_embd=32, n_layer=3, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2)
    ),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=64, max_position_embeddings=256, word_embed_proj_dim=32)),
}
SORTED: dict[str, Callable[[], PreTrainedModel]] = {
    "mpt": lambda: MptForCausalLM(
        MptConfig(d_model=32, n_heads=4, n_layers=3, expansion_ratio=2, max_seq_len=256, vocab_size=V)
    ),
    "gemma-2": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, head_dim=8, sliding_window=WINDOW)),
    "falcon": lambda: FalconForCausalLM(FalconConfig(**SMALL, alibi=False, bos_token_id=1, eos_token_id=2)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=32, n_layer=3, n_head=4)),
}


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = (PACKED | SORTED)[name]().eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # sure enough of something that texts which see each other would show
    return model


def passages(lengths: list[int]) -> list[Passage]:
    rng = np.random.default_rng(0)
    found = []
    for number, length in enumerate(lengths):
        ids = rng.integers(1, V, length + 1).astype(np.int32)
        identity = {"doc_id": f"doc-{number}", "chunk": 0, "text_hash": bytes([number % 256]) * 16}
        found.append(Passage(identity, 0, ids[:length], ids[1:], 0))
    return found


LENGTHS = [7, 40, 0, 1, 23, 61, 5, 0, 18]  # some longer than a layer's window


@pytest.mark.parametrize("name", [*PACKED, *SORTED])
def test_capture_is_what_the_model_says_of_each_text_alone(name: str) -> None:
    model = made(name)
    causal = split_model(model, name)
    assert (causal.packing.why_not is None) == (name in PACKED), causal.packing
    settings = CaptureSettings(k=V // 2, tokens_per_batch=64, window_chunks=4, head_positions=16)
    read = passages(LENGTHS)
    packs = causal.packing.why_not is None
    batches = packed_batches(read, 64) if packs else sorted_batches(read, 64, 4)
    found = list(in_order(captured(causal, batches, settings, packs, Fitting(16))))
    assert len(found) == len(read)
    for passage, kept in zip(read, found, strict=True):
        if kept is None:
            assert not len(passage)
            continue
        ids = torch.from_numpy(passage.inputs.astype(np.int64))[None]
        with torch.inference_mode():
            logp_TV = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].float(), dim=-1)
        wanted_TK = logp_TV.sort(dim=-1, descending=True, stable=True).values[:, : settings.k]
        assert float((kept.logprobs_TK - wanted_TK).abs().max()) <= 1e-5
        assert float((logp_TV.gather(1, kept.ids_TK.long()) - wanted_TK).abs().max()) <= 1e-5
        gold_T = logp_TV.gather(1, torch.from_numpy(passage.labels.astype(np.int64))[:, None])[:, 0]
        assert float((kept.gold_logprob_T - gold_T).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma-3"])
def test_with_the_default_cache_packed_texts_see_each_other(name: str) -> None:
    """The trap that `use_cache=False` avoids: position ids alone do not keep texts apart."""
    model = made(name)
    texts = [torch.from_numpy(p.inputs.astype(np.int64)) for p in passages([9, 12])]
    positions = torch.cat([torch.arange(len(t)) for t in texts])[None]
    with torch.inference_mode():
        alone = torch.cat([run_body(model, text[None], None)[0] for text in texts])
        trap = model.base_model(input_ids=torch.cat(texts)[None], position_ids=positions).last_hidden_state[0]
        right = run_packed(model, texts, one_kernel=False)
    assert float((right - alone).abs().max()) < 1e-5
    assert float((trap - alone)[9:].abs().max()) > 0.05


def test_mpt_ignores_where_texts_begin_and_is_found_out() -> None:
    packing = split_model(made("mpt"), "mpt").packing
    assert packing.why_not is not None and "come out otherwise than alone" in packing.why_not


def test_what_cannot_be_packed_says_why() -> None:
    assert "softcap" in (split_model(made("gemma-2"), "gemma-2").packing.why_not or "")
    causal = split_model(made("mpt"), "mpt")
    with pytest.raises(ModelRefused, match="batching to sorted"):
        causal.hidden_packed([np.arange(1, 5)])


def test_padding_and_plain_calls_are_left_as_they_were() -> None:
    model = made("llama")
    before = model.config._attn_implementation
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        wanted = model(input_ids=ids, use_cache=False).logits
        with packed(model, [8], one_kernel=False):
            assert model.config._attn_implementation != before
        assert model.config._attn_implementation == before
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, wanted)


def test_a_failure_inside_leaves_the_model_usable() -> None:
    model = made("llama")
    with pytest.raises(KeyError), packed(model, [3], one_kernel=False):
        raise KeyError
    texts = [torch.arange(1, 5), torch.arange(2, 9)]
    with torch.inference_mode():
        alone = torch.cat([run_body(model, text[None], None)[0] for text in texts])
        assert float((run_packed(model, texts, one_kernel=False) - alone).abs().max()) < 1e-5
