"""How a vocabulary map found its targets: shares, distances, ties, and the frequent pieces it serves worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.edit_distance import nearest_by_edit_distance
from logitfuse.kernels.vocabulary_map import How, VocabularyMap, VocabularyView
from logitfuse.tasks.models.vocabulary import Vocabulary

SURE = (How.EXACT, How.ROLE, How.BYTE)


def shares_by_how(found: VocabularyMap, weights: NDArray[np.integer]) -> dict[str, float]:
    """Return each way of mapping's share of the source ids, weighted by `weights` [S]; all 0 where that sums to 0."""
    totals = np.bincount(found.how, weights=weights, minlength=len(How))
    whole = max(float(totals.sum()), 1.0)
    return {how.name.lower(): float(totals[how]) / whole for how in How}


def mean_distance(found: VocabularyMap, weights: NDArray[np.integer]) -> float | None:
    """Return the mean edit distance in code points of the ids mapped by distance; None where there are none."""
    chosen = found.how == How.DISTANCE
    if not weights[chosen].sum():
        return None
    return float(np.average(found.distance[chosen], weights=weights[chosen]))


def tie_share(found: VocabularyMap, source: VocabularyView, target: VocabularyView, workers: int = 1) -> float | None:
    """Return the share of distance-mapped ids that another target piece is just as near to.

    A search that prefers the last piece finds another one than a search that prefers the first exactly where there
    is a tie. None where nothing was mapped by distance, or by another distance than that between the pieces' texts.
    """
    chosen = np.flatnonzero(found.how == How.DISTANCE).tolist()
    queries = [_whole(source.texts[token]) for token in chosen]
    texts = (_whole(text) for token, text in enumerate(target.texts) if token not in target.byte_ids)
    choices = list(dict.fromkeys(text for text in texts if text is not None))
    if not chosen or None in queries:
        return None
    words = [query for query in queries if query is not None]
    first, distance = nearest_by_edit_distance(words, choices, workers=workers)
    if (distance != found.distance[chosen]).any():
        return None
    last, _ = nearest_by_edit_distance(words, choices[::-1], workers=workers)
    return float((first != len(choices) - 1 - last).mean())


def worst_pieces(
    found: VocabularyMap, source: Vocabulary, target: Vocabulary, counts: NDArray[np.int64], limit: int = 20
) -> list[dict[str, Any]]:
    """Return the source pieces that the text uses most among those without an exact match, and what they become."""
    unsure = ~np.isin(found.how, SURE)
    order = np.argsort(-np.where(unsure, counts, 0), kind="stable")[:limit]
    whole = max(int(counts.sum()), 1)
    return [
        {
            "id": token,
            "piece": shown(source, token),
            "count": int(counts[token]),
            "share": int(counts[token]) / whole,
            "how": How(int(found.how[token])).name.lower(),
            "distance": int(found.distance[token]) if found.distance[token] >= 0 else None,
            "becomes": _becomes(found, target, token),
        }
        for token in order.tolist()
        if unsure[token] and counts[token]
    ]


def next_token_weights(
    found: VocabularyMap, source_next: NDArray[np.integer], target_next: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return how much of each source token's probability the map puts on the target token beside it, float64 [N]."""
    width = int(max(found.target_ids.max(initial=0), target_next.max(initial=0))) + 1
    rows = np.repeat(np.arange(found.source_size), np.diff(found.offsets))
    pairs, index = np.unique(rows * width + found.target_ids, return_inverse=True)
    weights = np.append(np.bincount(index, weights=found.weights, minlength=len(pairs)), 0.0)
    wanted = source_next.astype(np.int64) * width + target_next
    at = np.searchsorted(pairs, wanted)
    there = np.append(pairs, -1)[at] == wanted
    return np.where(there, weights[at], 0.0)


def shown(vocabulary: Vocabulary, token: int) -> str:
    """Write a token so that it can be told from others: its text, with what cannot be seen and parts of characters."""
    text = vocabulary.texts[token]
    if text is None:
        return str(vocabulary.pieces[token])
    return "".join(_visible(character) for character in text.decode(errors="surrogateescape"))


def _becomes(found: VocabularyMap, target: Vocabulary, token: int) -> list[dict[str, Any]]:
    row: Sequence[int] = range(int(found.offsets[token]), int(found.offsets[token + 1]))
    best = sorted(row, key=lambda entry: -float(found.weights[entry]))[:3]
    ids = [int(found.target_ids[entry]) for entry in best]
    return [
        {"id": i, "piece": shown(target, i), "weight": float(found.weights[entry])}
        for i, entry in zip(ids, best, strict=True)
    ]


def _whole(text: bytes | None) -> str | None:
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError:
        return None


def _visible(character: str) -> str:
    if character == " ":
        return "␣"
    if "\udc80" <= character <= "\udcff":  # a byte that is no character by itself
        return f"<{ord(character) - 0xDC00:02X}>"
    return character if character.isprintable() else character.encode("unicode_escape").decode()
