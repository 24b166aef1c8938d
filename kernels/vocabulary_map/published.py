"""The published code's map of spelled pieces, string by string (FuseLLM §3.2: EM and MinED), faults and all."""

import numpy as np

from logitfuse.kernels.edit_distance import nearest_by_edit_distance
from logitfuse.kernels.vocabulary_map import (
    VOCABULARY_MAPS,
    How,
    MapContext,
    VocabularyMap,
    VocabularyView,
    one_to_one,
)


@VOCABULARY_MAPS("published")
def published(
    source: VocabularyView, target: VocabularyView, context: MapContext, *, nearest: bool = True
) -> VocabularyMap:
    """Map each source piece, its space marker replaced by the target's, to the target piece of the same spelling.

    Else, with `nearest` (MinED), to the one at the least Levenshtein distance over code points, lowest id on ties;
    without (EM) it stays unmapped. Special tokens and `<0xNN>` are strings like all others on both sides, and markers
    count: `Ċ` becomes `▁` and `0000` becomes `<0x00>`, which `mined` avoids. The published candidates come in the
    order of `get_vocab()`; for the slow Llama tokenizer that the paper used this is by id.
    Raises ValueError where a vocabulary comes without its pieces.
    """
    for name, vocabulary in (("source", source), ("target", target)):
        if len(vocabulary.pieces) != len(vocabulary.texts):
            raise ValueError(f"vocabulary map 'published' needs the pieces as they are spelled: give {name}.pieces.")
    size = len(source.pieces)
    targets, how, distance = np.full(size, -1, np.int32), np.zeros(size, np.int8), np.full(size, -1, np.int32)
    id_of = {piece: token for token, piece in reversed(list(enumerate(target.pieces))) if piece is not None}
    spelled = respelled(source, target.marker)
    same = [token for token, piece in spelled.items() if piece in id_of]
    targets[same], how[same], distance[same] = [id_of[spelled[token]] for token in same], How.EXACT, 0
    rest = [token for token, piece in spelled.items() if piece not in id_of] if nearest and id_of else []
    candidates = sorted(id_of, key=id_of.__getitem__)
    index, found = nearest_by_edit_distance([spelled[token] for token in rest], candidates, workers=context.workers)
    targets[rest], how[rest], distance[rest] = [id_of[candidates[i]] for i in index], How.DISTANCE, found
    return one_to_one(targets, how, distance)


def respelled(vocabulary: VocabularyView, marker: str) -> dict[int, str]:
    """Return id → piece with the vocabulary's own space marker, wherever it stands, replaced by `marker`."""
    own = vocabulary.marker  # replacing "" would put the other's marker between all letters
    pieces = {token: piece for token, piece in enumerate(vocabulary.pieces) if piece is not None}
    return {token: piece.replace(own, marker) if own else piece for token, piece in pieces.items()}
