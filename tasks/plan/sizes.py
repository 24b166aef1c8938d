"""How large a model is and how much it computes, from its configuration and the headers of its weights alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.tasks.models.weight_files import read_header

if TYPE_CHECKING:
    from logitfuse.tasks.models.source import Source

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True)
class ModelSize:
    """A model's numbers of weights and its widths."""

    parameters: int
    multiplied: float  # weights that a token goes through: no looked-up embedding, of experts those chosen
    embedding: int  # weights of the token embedding, and of a head of its own
    stored: int  # bytes of its files
    layers: int
    hidden: int
    intermediate: int
    attention: int  # heads × their width
    vocabulary: int

    def forward(self, tokens: float, squares: float) -> float:
        """Return the operations of reading texts of so many tokens, the sum of their squared lengths given.

        2 a weight and token, and attention's 2 · T² · width a layer, of which causality leaves one half twice (keys
        and values): a third of what training needs (PaLM, appendix B).
        """
        return 2.0 * self.multiplied * tokens + 2.0 * self.layers * self.attention * squares


def model_size(source: Source) -> ModelSize:
    """Return how large a model is; raises `ModelRefused` where its weights' headers cannot be read."""
    numbers, stored = _weights(source.home.folder)
    config = source.config
    total = sum(numbers.values())
    looked_up = sum(count for name, count in numbers.items() if name.endswith(EMBEDDINGS))
    own_head = sum(count for name, count in numbers.items() if name.endswith(HEADS))
    experts = sum(count for name, count in numbers.items() if ".experts." in name)
    idle = experts * (1 - _active(config))
    hidden = _first(config, "hidden_size", "d_model", "n_embd")
    heads = _first(config, "num_attention_heads", "n_heads", "n_head", default=1)
    return ModelSize(
        parameters=total,
        multiplied=total - idle - (looked_up if own_head else 0),
        embedding=looked_up + own_head,
        stored=stored,
        layers=_first(config, "num_hidden_layers", "n_layers", "n_layer", default=1),
        hidden=hidden,
        intermediate=_first(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
        attention=heads * int(config.get("head_dim") or max(1, hidden // heads)),
        vocabulary=source.head_width,
    )


@lru_cache(maxsize=32)
def _weights(folder: Path) -> tuple[dict[str, int], int]:
    """Return how many numbers each tensor has, and the bytes of all files."""
    numbers: dict[str, int] = {}
    stored = 0
    for file in sorted(folder.glob("*.safetensors")):
        tensors, _ = read_header(file, str(file))
        numbers |= {name: math.prod(facts["shape"]) for name, facts in tensors.items()}
        stored += file.stat().st_size
    return numbers, stored


def _active(config: dict[str, Any]) -> float:
    experts = config.get("num_local_experts") or config.get("num_experts")
    chosen = config.get("num_experts_per_tok")
    return chosen / experts if experts and chosen else 1.0


def _first(config: dict[str, Any], *names: str, default: int = 0) -> int:
    return next((int(config[name]) for name in names if isinstance(config.get(name), (int, float))), default)
