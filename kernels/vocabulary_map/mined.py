"""MinED, the paper's minimum edit distance (§3.2), over the pieces' text instead of their spelling."""

from logitfuse.kernels.edit_distance import nearest_by_edit_distance
from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How, MapContext, VocabularyMap, VocabularyView
from logitfuse.kernels.vocabulary_map.matches import Matches


@VOCABULARY_MAPS("mined")
def mined(source: VocabularyView, target: VocabularyView, context: MapContext) -> VocabularyMap:
    """Map what matches exactly, and the rest to the target piece at the least Levenshtein distance, lowest id on ties.

    Distances count code points and spaces. Candidates are target pieces of whole characters: no special tokens, no
    `<0xNN>` tokens, no parts of a character. A source piece that cuts a character has no code points to compare; it
    goes to the longest target piece that its bytes begin with.
    """
    matches = Matches(source, target)
    whole, cut = matches.open_texts()
    candidates = whole_pieces(target)
    ids = list(candidates)
    nearest, distances = nearest_by_edit_distance(
        list(whole.values()), list(candidates.values()), workers=context.workers
    )
    if ids:
        for token, choice, distance in zip(whole, nearest.tolist(), distances.tolist(), strict=True):
            matches.put(token, ids[choice], How.DISTANCE, distance)
    matches.put_longest_prefixes(cut.items())
    return matches.finished()


def whole_pieces(vocabulary: VocabularyView) -> dict[int, str]:
    """Return id → text of the pieces that may be compared by characters: no `<0xNN>` tokens, no cut characters."""
    pieces: dict[int, str] = {}
    for token, text in enumerate(vocabulary.texts):
        if text is not None and token not in vocabulary.byte_ids:
            try:
                pieces[token] = text.decode()
            except UnicodeDecodeError:
                continue
    return pieces
