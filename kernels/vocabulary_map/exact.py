"""EM, the paper's exact match (§3.2): a source id maps only where the target has the same token."""

from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, MapContext, VocabularyMap, VocabularyView
from logitfuse.kernels.vocabulary_map.matches import Matches


@VOCABULARY_MAPS("exact")
def exact(source: VocabularyView, target: VocabularyView, context: MapContext) -> VocabularyMap:
    """Map equal bytes, byte tokens by their byte, special tokens by their role; leave the rest unmapped."""
    return Matches(source, target).finished()
