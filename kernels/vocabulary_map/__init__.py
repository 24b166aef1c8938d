"""From source ids to target ids: one file per strategy, `@VOCABULARY_MAPS("name")` above its function.

A strategy is called with (source: VocabularyView, target: VocabularyView, context: MapContext, *, options) and
returns a VocabularyMap. One with an option `max_tokens` is fitted on text: `context.pairs` then gives it training
chunks of about so many target tokens, and the shards that hold them are part of its key.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from logitfuse.kernels.registry import Registry
from logitfuse.kernels.vocabulary_map.sparse_map import (
    How,
    MapContext,
    TwiceCut,
    VocabularyMap,
    VocabularyView,
    identity_map,
    one_to_one,
)

VOCABULARY_MAPS: Registry[Callable[..., VocabularyMap]] = Registry("vocabulary map", __name__)


def tokens_to_fit(name: str, options: Mapping[str, Any]) -> int | None:
    """Return how many target tokens of text the strategy wants to see with these options, None if it needs no text."""
    parameter = inspect.signature(VOCABULARY_MAPS.get(name)).parameters.get("max_tokens")
    return None if parameter is None else int(options.get("max_tokens", parameter.default))


__all__ = [
    "VOCABULARY_MAPS",
    "How",
    "MapContext",
    "TwiceCut",
    "VocabularyMap",
    "VocabularyView",
    "identity_map",
    "one_to_one",
    "tokens_to_fit",
]
