"""Models of a few thousand weights that need nothing from outside."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = "the quick brown fox jumps over a lazy dog while naïve Zürich cats sleep in 2023 said Anna and nobody minds"
WORDS = TEXT.split()


def tiny_model(folder: Path, vocabulary: int, seed: int) -> Path:
    """A Llama with random weights and a byte-level tokenizer of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    write_llama(folder, tokenizer, seed, hidden_size=16, intermediate_size=32, num_hidden_layers=1)
    return folder


def write_llama(
    folder: Path, tokenizer: Tokenizer, seed: int, *, unknown: str | None = None, context: int = 256, **config: Any
) -> None:
    """Write a Llama with random weights and two heads, of the tokenizer's size; `config` is the rest of its own."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **({"unk_token": unknown} if unknown else {})
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    llama = LlamaConfig(
        vocab_size=len(fast), num_attention_heads=2, max_position_embeddings=context, bos_token_id=0, eos_token_id=1,
        **config,
    )  # fmt: skip
    LlamaForCausalLM(llama).to(llama.dtype or torch.float32).save_pretrained(folder)
