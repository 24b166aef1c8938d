"""The nearest of many texts by Levenshtein distance, compiled with numba: exact, and most pairs are never evaluated.

The search evaluates few pairs (1-9% on real vocabularies): it visits lengths by growing difference until that alone
exceeds the best, passes over pairs whose characters differ by too much, and stops distances that can no longer win.
Legend: Q queries, C choices.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

WORD = 64  # code points in a query that the bit-parallel distance holds in one machine word
OWN_BITS = 48  # symbols that do not share their bit in a set of 64
ROWS = 512  # queries a thread takes at a time


def search_nearest(
    queries: Sequence[str], choices: Sequence[str], workers: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return (index int32 [Q], distance int32 [Q]) of each query's nearest choice, the lowest index on ties.

    Neither may be empty.
    """
    alike, strange = _without_strange_symbols(queries, choices)
    rows = {query: row for row, query in enumerate(dict.fromkeys(alike))}
    order = np.argsort([len(choice) for choice in choices], kind="stable").astype(np.int32)
    texts = _coded([*rows, *(choices[c] for c in order)], strange)
    lengths_C = np.diff(texts.offsets)[len(rows) :]
    borders = len(rows) + np.searchsorted(lengths_C, np.arange(lengths_C[-1] + 2))
    index, distance = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)

    def search(first: int) -> None:
        _search(first, min(first + ROWS, len(rows)), len(rows), texts, order, borders, index, distance)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(search, range(0, len(rows), ROWS)))
    row_of_query = np.array([rows[query] for query in alike])
    return index[row_of_query], distance[row_of_query]


def _without_strange_symbols(queries: Sequence[str], choices: Sequence[str]) -> tuple[list[str], str]:
    """Return the queries with all symbols that no choice has replaced by one of them, and that one ("" for none).

    They match nothing, so no distance changes, and a large vocabulary's many foreign pieces become the same few.
    """
    strange = sorted(set().union(*queries) - set().union(*choices))
    stand_in = strange[0] if strange else ""
    table = str.maketrans(dict.fromkeys(strange, stand_in))
    return [query.translate(table) for query in queries], stand_in


class _Texts(NamedTuple):
    """Texts one after another as dense symbols, and what the lower bound needs of each."""

    symbols: NDArray[np.int32]  # [total length], the most frequent first
    offsets: NDArray[np.int64]  # [texts + 1]
    once: NDArray[np.uint64]  # [texts], the bits of the symbols it has
    twice: NDArray[np.uint64]  # [texts], the bits it has two or more symbols of
    strange: NDArray[np.int64]  # [texts], how many of its symbols no choice has


def _coded(texts: Sequence[str], strange: str) -> _Texts:
    points = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
    _, inverse, counts = np.unique(points, return_inverse=True, return_counts=True)
    by_frequency = np.empty(len(counts), np.int32)
    by_frequency[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    symbols = by_frequency[inverse]
    lengths = np.array([len(text) for text in texts], np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    is_strange = points == ord(strange) if strange else np.zeros(len(points), bool)
    # Frequent symbols have a bit of their own, the rest share some: sharing only weakens the bound.
    bits = np.where(symbols < OWN_BITS, symbols, OWN_BITS + symbols % (WORD - OWN_BITS))
    pairs, seen = np.unique((owner * WORD + bits)[~is_strange], return_counts=True)
    once, twice = np.zeros(len(texts), np.uint64), np.zeros(len(texts), np.uint64)
    for sets, chosen in ((once, pairs), (twice, pairs[seen > 1])):
        np.bitwise_or.at(sets, chosen // WORD, np.uint64(1) << (chosen % WORD).astype(np.uint64))
    strange_symbols = np.bincount(owner[is_strange], minlength=len(texts)).astype(np.int64)
    return _Texts(symbols, np.concatenate([[0], np.cumsum(lengths)]), once, twice, strange_symbols)


@njit(nogil=True, cache=True)
def _search(first, last, choices_from, texts, order, borders, index, distance):  # type: ignore[no-untyped-def]
    """Fill `index` and `distance` for the queries first..last; text `choices_from + c` is choice `order[c]`."""
    masks = np.zeros(texts.symbols.max() + 1 if len(texts.symbols) else 1, np.uint64)
    longest = len(borders) - 2
    for q in range(first, last):
        query = texts.symbols[texts.offsets[q] : texts.offsets[q + 1]]
        _mark(query, masks)
        best, best_index = max(len(query), longest) + 1, np.int32(-1)
        gap = 0
        while gap <= min(best, max(len(query), longest)):
            for length in (len(query) - gap, len(query) + gap):
                if length < 0 or length > longest or (gap == 0 and length > len(query)):
                    continue
                for c in range(borders[length], borders[length + 1]):
                    limit = best if order[c - choices_from] < best_index else best - 1
                    if gap > limit or _lower_bound(texts, q, c) > limit:
                        continue
                    choice = texts.symbols[texts.offsets[c] : texts.offsets[c + 1]]
                    found = _distance(query, choice, masks, limit)
                    if found <= limit:
                        best, best_index = found, order[c - choices_from]
            gap += 1
        index[q], distance[q] = best_index, best
        masks[query] = 0


@njit(nogil=True, cache=True, inline="always")
def _lower_bound(texts, q, c):  # type: ignore[no-untyped-def]
    """Return a bound: one edit takes out at most one symbol too many and brings in at most one that is missing."""
    out = _ones(texts.once[q] & ~texts.once[c]) + _ones(texts.twice[q] & ~texts.twice[c]) + texts.strange[q]
    return max(out, _ones(texts.once[c] & ~texts.once[q]) + _ones(texts.twice[c] & ~texts.twice[q]))


@njit(nogil=True, cache=True)
def _mark(query, masks):  # type: ignore[no-untyped-def]
    for i in range(min(len(query), WORD)):
        masks[query[i]] |= np.uint64(1) << np.uint64(i)


@njit(nogil=True, cache=True, inline="always")
def _ones(word):  # type: ignore[no-untyped-def]
    """Return the number of set bits; the compiler turns this into one instruction."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(nogil=True, cache=True)
def _distance(query, choice, masks, limit):  # type: ignore[no-untyped-def]
    """Return the distance, or anything above `limit` once it must exceed that."""
    if 0 < len(query) <= WORD:
        return _distance_in_word(len(query), choice, masks, limit)
    return _distance_by_rows(query, choice, limit)


@njit(nogil=True, cache=True)
def _distance_in_word(length, choice, masks, limit):  # type: ignore[no-untyped-def]
    """Myers 1999 as Hyyrö 2003 states it for the global distance: one column of the table in two machine words."""
    one = np.uint64(1)
    last = one << np.uint64(length - 1)
    plus, minus, score = ~np.uint64(0), np.uint64(0), length
    for j in range(len(choice)):
        equal = masks[choice[j]]
        vertical = equal | minus
        horizontal = (((equal & plus) + plus) ^ plus) | equal
        up, down = minus | ~(horizontal | plus), plus & horizontal
        if up & last:
            score += 1
        elif down & last:
            score -= 1
        if score - (len(choice) - 1 - j) > limit:  # each symbol left lowers the score by one at most
            return limit + 1
        up, down = (up << one) | one, down << one
        plus, minus = down | ~(vertical | up), up & vertical
    return score


@njit(nogil=True, cache=True)
def _distance_by_rows(query, choice, limit):  # type: ignore[no-untyped-def]
    """Return the textbook distance, for the few queries longer than a machine word."""
    row = np.arange(len(choice) + 1)
    for i in range(len(query)):
        diagonal, row[0] = row[0], i + 1
        least = row[0]
        for j in range(len(choice)):
            cost = min(row[j] + 1, row[j + 1] + 1, diagonal + (query[i] != choice[j]))
            diagonal, row[j + 1] = row[j + 1], cost
            least = min(least, cost)
        if least > limit:
            return limit + 1
    return row[len(choice)]
