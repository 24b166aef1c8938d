"""How tokens, numbers and rules are written for people; the terminal and the page say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logitfuse.tasks.alignment_report.mapped import shown

if TYPE_CHECKING:
    from logitfuse.tasks.fuse_settings import FuseSettings
    from logitfuse.tasks.models.vocabulary import Vocabulary

LIES = {"same": "the same token", "longer": "goes on further", "shorter": "ends before it", "unknown": "end not known"}
RULES = {
    "min_ce": "predicts this {text} best",
    "avg_ce": "avg_ce mixes by softmax(exp(-score)), nearly the plain mean",
    "weighted": "weighted mixes by softmax(-score / {temperature})",
    "bayes": "bayes mixes by how likely each made the text so far",
}


def token_text(vocabulary: Vocabulary, token: int) -> str:
    """Write a token so that it can be told from others; an id that is no token has only its number."""
    if token >= vocabulary.size or (vocabulary.texts[token] is None and vocabulary.pieces[token] is None):
        return f"<id {token}>"
    return shown(vocabulary, token)


def flowing(text: bytes) -> str:
    """Write a piece of text as part of a text: spaces and line ends stay, what cannot be seen becomes an escape."""
    return "".join(_visible(character) for character in text.decode(errors="surrogateescape"))


def _visible(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is no character by itself
        return f"<{ord(character) - 0xDC00:02X}>"
    return character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()


def next_end(ends: NDArray[np.int32], token: int) -> int:
    """Return the byte at which a token ends, -1 where it is not known."""
    return int(ends[token]) if 0 <= token < len(ends) else -1


def lies(source_end: int, target_end: int) -> str:
    """Say how a source's next token lies to the target's (`LIES`)."""
    if source_end < 0 or target_end < 0:
        return "unknown"
    return "same" if source_end == target_end else "longer" if source_end > target_end else "shorter"


def settings_of(settings: FuseSettings) -> str:
    """Say what a fusion rule goes by."""
    said = RULES.get(settings.rule, f"by the rule {settings.rule}")
    text = {"document": "document", "block": "packed block", "chunk": "piece of text"}[settings.granularity]
    return said.format(text=text, temperature=settings.options.get("temperature", 0.1))


def compared(settings: FuseSettings, scores: Mapping[str, float]) -> str:
    """Say what a rule compares, the best first; nothing where scores are not what it goes by."""
    if settings.rule == "bayes" or not scores:
        return ""
    best = ", ".join(f"{label} {scores[label]:.3f}" for label in sorted(scores, key=lambda label: scores[label]))
    return f"{score_unit(settings).capitalize()}: {best}. "


def score_unit(settings: FuseSettings) -> str:
    """Return the unit of the scores."""
    return settings.score.replace("_", " ")


def rounded(value: float) -> float | None:
    """Return a number as JSON can say it, None for what is not finite."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else None
