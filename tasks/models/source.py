"""A model of a recipe with its tokenizer, read once per process."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerFast

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.home import ModelHome, find_model
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.models.vocabulary import Vocabulary, load_tokenizer, read_vocabulary


@dataclass(frozen=True)
class Source:
    """A target or source model: where it lies, its vocabulary, and the tokens put around each text."""

    home: ModelHome
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary

    @property
    def label(self) -> str:
        return self.home.label

    @property
    def tokenizer_label(self) -> str:
        """Folder name of what depends on the tokenizer alone; models that share one share the work."""
        return f"tok-{self.vocabulary.fingerprint.removeprefix('sha256:')[:10]}"

    @cached_property
    def start_id(self) -> int | None:
        """The token before each text, None for none."""
        bos = self.vocabulary.roles.get("bos")
        wanted = self.home.settings.start
        if wanted == "bos" and bos is None:
            raise ModelRefused(
                f"model {self.label!r}: start is 'bos', but its tokenizer has none. Set start to 'none'."
            )
        return None if wanted == "none" else bos

    @cached_property
    def end_id(self) -> int | None:
        """The token after each document, None where none is predicted."""
        return self.vocabulary.roles.get("eos") if self.home.settings.end == "eos" else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's config.json; a multi-modal model's text part."""
        config = json.loads((self.home.folder / "config.json").read_text())
        return {**config, **(config.get("text_config") or {})}

    @property
    def head_width(self) -> int:
        """Number of logits, which may be more than the tokenizer has tokens (padding)."""
        return int(self.config.get("vocab_size") or self.vocabulary.size)

    @property
    def context(self) -> int:
        """Longest input in tokens."""
        for name in ("max_position_embeddings", "max_seq_len", "n_positions"):
            if self.config.get(name):
                return int(self.config[name])
        return 2048


def read_source(settings: ModelSettings) -> Source:
    """Find a model and read its tokenizer; raise `ModelRefused` if either cannot be used."""
    home = find_model(settings)
    with _uncollected():
        tokenizer = load_tokenizer(home.folder)
        source = Source(home, tokenizer, read_vocabulary(tokenizer))
    if source.vocabulary.size > source.head_width:
        raise ModelRefused(
            f"model {source.label!r}: its tokenizer knows {source.vocabulary.size} tokens, its head predicts only "
            f"{source.head_width}. This is not the tokenizer the model was trained with; fix the folder {home.folder}."
        )
    return source


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold the garbage collector back: over a million new strings and lists it takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
