"""The paper's own combination in small: random weights, real tokenizers, and a text that is not easy on them."""

import json
import random
from functools import cache
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM

from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

TEXT = "the cat sat on a mat while 2023 dogs ran 1,000 miles through naïve Zürich cafés, said O'Neil: don't!"
WORDS = TEXT.split()
HARD = [
    "日本語のテキスト",
    "👩‍👩‍👧 family",
    "tabs\tand  two spaces",
    "a\r\nb",
    "x = {'k': [1, 22, 333]}",
    "<s> </s> literal",
]


@cache
def tiny_llama(folder: Path) -> Path:
    """A Llama with random weights and the Llama-2 tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _saved(LlamaForCausalLM(config), "llama-2", folder / "tiny-llama")


@cache
def tiny_mpt(folder: Path) -> Path:
    """An MPT with random weights and the MPT tokenizer."""
    torch.manual_seed(2)
    config = MptConfig(d_model=16, n_heads=2, n_layers=2, expansion_ratio=2, max_seq_len=512, vocab_size=50432)
    return _saved(MptForCausalLM(config), "mpt", folder / "tiny-mpt")


def _saved(model: torch.nn.Module, tokenizer: str, folder: Path) -> Path:
    # Larger weights than usual: a random model is then sure of something, and ties stay rare.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder(tokenizer)).save_pretrained(folder)
    return folder


def write_corpus(path: Path, documents: int, seed: int = 0) -> Path:
    """Write a JSONL corpus; the first documents do not change when more are asked for."""
    rng = random.Random(seed)
    lines = []
    for number in range(documents):
        sentences = [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + "." for _ in range(rng.randint(1, 12))]
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(HARD))
        text = "\n\n".join(sentences) if number % 7 else ""
        lines.append(json.dumps({"id": f"doc-{number}", "text": text, "domain": ["prose", "mixed"][number % 2]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe_content(folder: Path, models: Path, documents: int = 20) -> dict:
    """Return a recipe over the two tiny models: Llama is the target and a source, MPT the other source."""
    corpus = write_corpus(folder / "corpus.jsonl", documents)
    return {
        "name": "paper-in-small",
        "target": {"model": str(tiny_llama(models)), "dtype": "float32"},
        "sources": [{"model": str(tiny_mpt(models)), "dtype": "float32"}],
        "corpus": {
            "source": str(corpus),
            "id_column": "id",
            "documents_per_shard": 8,
            "max_chunk_bytes": 400,
            "held_out_share": 0.2,
            "near_duplicate_overlap": None,
        },
        "check": {"nats_per_byte": None},  # random weights predict nothing
        "capture": {"k": 4, "tokens_per_batch": 256, "window_chunks": 8, "head_positions": 32},
        # The simplest of each: what tests work out by hand. The defaults have tests of their own.
        "map": {"strategy": "first_piece"},
        "align": {"condition_on_target": "never", "min_probability": 0.0},
        "fuse": {"rule": "min_ce"},
        "train": {
            "learning_rate": 0.001, "dtype": "fp32", "sequence_length": 256, "tokens_per_step": 512,
            "micro_batch_tokens": 512,
        },
        "evaluate": {"tokens_per_batch": 256},
        "execution": {"folder": str(folder / "runs"), "min_free_gb": 0, "device": "cpu",
                      "checkpoint_every_steps": 2},
    }  # fmt: skip
