"""The first piece of the target's own tokenisation: what the target would write next if the source's token came."""

from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How, MapContext, VocabularyMap, VocabularyView
from logitfuse.kernels.vocabulary_map.matches import Matches


@VOCABULARY_MAPS("first_piece")
def first_piece(source: VocabularyView, target: VocabularyView, context: MapContext) -> VocabularyMap:
    """Map what matches exactly, and the rest to the first token the target's tokenizer makes of the source piece.

    A source piece that cuts a character cannot be tokenised alone, and some pieces have no tokenisation that begins
    where they do: these go to the longest target piece that their bytes begin with.
    Raises ValueError where `context.target_encode` is missing.
    """
    if context.target_encode is None:
        raise ValueError("vocabulary map 'first_piece' needs the target's tokenizer: give context.target_encode.")
    matches = Matches(source, target)
    whole, cut = matches.open_texts()
    encodings = context.target_encode(list(whole.values()))
    without: dict[int, bytes] = {}
    for (token, text), ids in zip(whole.items(), encodings, strict=True):
        if ids and ids[0] < len(target.texts) and target.texts[ids[0]] is not None:
            matches.put(token, ids[0], How.FIRST_PIECE)
        else:
            without[token] = text.encode()
    matches.put_longest_prefixes((cut | without).items())
    return matches.finished()
