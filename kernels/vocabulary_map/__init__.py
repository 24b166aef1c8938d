"""From source ids to target ids: one file per strategy, `@VOCABULARY_MAPS("name")` above its function.

A strategy is called with (source: VocabularyView, target: VocabularyView, context: MapContext, *, options) and
returns a VocabularyMap.
"""

from collections.abc import Callable

from logitfuse.kernels.registry import Registry
from logitfuse.kernels.vocabulary_map.sparse_map import (
    How,
    MapContext,
    VocabularyMap,
    VocabularyView,
    identity_map,
    one_to_one,
)

VOCABULARY_MAPS: Registry[Callable[..., VocabularyMap]] = Registry("vocabulary map", __name__)

__all__ = [
    "VOCABULARY_MAPS",
    "How",
    "MapContext",
    "VocabularyMap",
    "VocabularyView",
    "identity_map",
    "one_to_one",
]
