"""Cut long documents as FuseLLM's published code does: by a tokenizer's ids, decoded again. Lossy; for `paper` only.

If any model's tokenizer needs more than the threshold, the longest tokenisation is cut every `threshold` ids and each
part decoded. A cut inside a character leaves U+FFFD on both sides, and decoding may tidy spaces before punctuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from logitfuse.tasks.models.source import Source

# What `clean_up_tokenization_spaces` joined, in its order; transformers 5 no longer does it for BPE tokenizers.
TIDIED = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}


@dataclass(frozen=True)
class PublishedSplit:
    """Cuts texts by the tokenizers of all models, the target's first; equal lengths go to the first."""

    tokenizers: Sequence[PreTrainedTokenizerFast]
    fingerprints: Sequence[str]
    threshold: int

    def __call__(self, text: str) -> list[str]:
        """Return the text's pieces; a text that is short for all tokenizers is returned as it is."""
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in self.tokenizers]
        longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))  # the first of equals
        ids = encoded[longest]
        if len(ids) <= self.threshold:
            return [text]
        parts = (ids[start : start + self.threshold] for start in range(0, len(ids), self.threshold))
        return [decoded(self.tokenizers[longest], part) for part in parts]


def decoded(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Return the text of some ids without special tokens, spaces tidied if the tokenizer's configuration says so."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    if not tidies(tokenizer):
        return text
    for spaced, joined in TIDIED.items():
        text = text.replace(spaced, joined)
    return text


def tidies(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether transformers 4 tidied this tokenizer's text: as configured; if silent, all but Llama's."""
    configured = tokenizer.init_kwargs.get("clean_up_tokenization_spaces")
    if configured is not None:
        return bool(configured)
    return "Llama" not in str(tokenizer.init_kwargs.get("tokenizer_class") or type(tokenizer).__name__)


def published_split(models: Sequence[Source], threshold: int | None) -> PublishedSplit | None:
    """Return the split over these models' tokenizers, the target's first; None without a threshold."""
    if threshold is None:
        return None
    return PublishedSplit(
        [model.tokenizer for model in models], [model.vocabulary.fingerprint for model in models], threshold
    )
