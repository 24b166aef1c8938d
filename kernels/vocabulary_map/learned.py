"""What the target really writes where the source writes s, counted in text that both tokenizers cut.

Legend: S source ids, V target ids, N entries.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How, MapContext, VocabularyMap, VocabularyView
from logitfuse.kernels.vocabulary_map.first_piece import first_piece
from logitfuse.kernels.vocabulary_map.next_tokens import NextTokens, count_next_tokens


@VOCABULARY_MAPS("learned")
def learned(
    source: VocabularyView,
    target: VocabularyView,
    context: MapContext,
    *,
    max_tokens: Annotated[int, Field(ge=1)] = 4_000_000,
    prior: Annotated[float, Field(ge=0)] = 1.0,
    prune: Annotated[float, Field(ge=0, lt=1)] = 0.0001,
) -> VocabularyMap:
    """Map source token s to each target token y by the share of s's occurrences at which the target writes y.

    Counted wherever both tokenizers end a token at the same byte: s and y are what each writes next. So " foo" also
    stands for the " foobar" that only the target has, as often as the text says (method: the table of maps). Fitted
    on the first `max_tokens` target tokens of training text. `prior`: how many occurrences the `first_piece` map is
    worth; a token that never occurs has that map. Entries below `prune` are dropped, a row's best never; every row
    that maps sums to 1.
    A space that a tokenizer puts before the text is not text, so the beginning of a chunk is then no boundary.
    Raises ValueError where `context.pairs` or `context.target_encode` is missing.
    """
    if context.pairs is None:
        raise ValueError("vocabulary map 'learned' is counted in text that both tokenizers cut: give context.pairs.")
    start = first_piece(source, target, context)
    sizes = len(source.texts), len(target.texts)
    at_start = not (source.dummy_prefix or target.dummy_prefix)
    counted = count_next_tokens(context.pairs, sizes, at_start=at_start, max_tokens=max_tokens)
    return with_prior(counted, start, sizes, prior, prune)


def with_prior(
    counted: NextTokens, start: VocabularyMap, sizes: tuple[int, int], prior: float, prune: float
) -> VocabularyMap:
    """Return the rows of (counts + prior·`start`), pruned and normalised; rows without counts are those of `start`.

    `sizes`: (S, V). Entries come best first, equal ones by rising target id. `times` of the result is a row's sum
    before it was normalised, 0 for rows without counts.
    """
    rows_start = np.repeat(np.arange(sizes[0]), np.diff(start.offsets))
    seen_S = np.bincount(counted.source, minlength=sizes[0]) > 0
    strength = np.where(seen_S[rows_start], prior, 1.0) * start.weights
    rows, ids, value = _added(
        np.concatenate([counted.source, rows_start]),
        np.concatenate([counted.target, start.target_ids]),
        np.concatenate([counted.times, strength]),
        sizes[1],
    )
    times_S = np.bincount(rows, value, sizes[0])
    share = value / times_S[rows]
    best_S = np.zeros(sizes[0])
    np.maximum.at(best_S, rows, share)
    kept = (share > 0) & ((share >= prune) | (share == best_S[rows]))
    rows, ids, share = rows[kept], ids[kept], share[kept]
    share /= np.bincount(rows, share, sizes[0])[rows]
    order = np.lexsort((ids, -share, rows))
    return VocabularyMap(
        np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=sizes[0]))]).astype(np.int64),
        ids[order].astype(np.int32),
        share[order].astype(np.float32),
        np.where(seen_S, np.int32(-1), start.distance),
        np.where(seen_S, np.int8(How.LEARNED), start.how),
        np.where(seen_S, times_S, 0.0).astype(np.float32),
    )


def _added(
    rows: NDArray[np.int64], ids: NDArray[np.int64], values: NDArray[np.float64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return rows, ids [N] and the sum of the values of each (row, id), sorted by row, then id."""
    keys, place = np.unique(rows * max(width, 1) + ids, return_inverse=True)
    found, columns = divmod(keys, max(width, 1))
    return found, columns, np.bincount(place, values, len(keys)).astype(np.float64)
