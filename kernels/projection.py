"""Carry a source's distributions over to the target's vocabulary, through a sparse map.

Mass that falls on the same target token is added; the published code keeps the first entry only and loses the rest
(`first_wins`). Mass on tokens that the map does not know stays left out; it is never spread. Legend: P source
positions, K kept tokens, T target positions, V target ids, N entries.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.sparse import Sparse

ADDED, FIRST, LOGITS = 0, 1, 2  # what becomes of a value whose target id already stands; LOGITS: first, as logits
NARROW = 48  # entries up to which a row is sorted by insertion


class Conditional(NamedTuple):
    """The target's own captured distributions, by which a map's row of several target ids is weighted."""

    ids_QK: NDArray[np.int32]
    probs_QK: NDArray[np.float64]
    floor_Q: NDArray[np.float64]  # probability of each id that was left out
    rows_T: NDArray[np.int64]  # the row of each target position, -1 for none


def project(
    ids_PK: NDArray[np.int32],
    probs_PK: NDArray[np.float64],
    rows_T: NDArray[np.int64],
    map_offsets: NDArray[np.int64],
    map_ids: NDArray[np.int32],
    map_weights: NDArray[np.float32],
    *,
    fallback_T: NDArray[np.int32] | None = None,
    first_wins: bool = False,
    conditional: Conditional | None = None,
    min_probability: float = 0.0,
) -> Sparse:
    """Return for each target position the distribution of source position `rows_T[t]` on target ids.

    Rows of `rows_T` below zero give an empty distribution, or all mass on `fallback_T[t]` where that is an id. The map
    is CSR by source id: id s becomes `map_ids[map_offsets[s]:map_offsets[s+1]]` with these weights, in proportion to
    the target's own probabilities there if `conditional` is given (s keeps its mass). Best first, equal probabilities
    by lowest id; with `first_wins` in the source's order, and a target id that already stands keeps its first value.
    Entries below `min_probability` are left out, a row's best never.
    """
    vocabulary_map = (map_offsets, map_ids, map_weights)
    rule = FIRST if first_wins else ADDED
    return Sparse(
        *_project(
            ids_PK, probs_PK, rows_T, *vocabulary_map, _fallback_ids(fallback_T, rows_T), rule, conditional,
            min_probability,
        )
    )  # fmt: skip


def project_logits(
    ids_PK: NDArray[np.int32],
    logits_PK: NDArray[np.float32],
    rows_T: NDArray[np.int64],
    map_offsets: NDArray[np.int64],
    map_ids: NDArray[np.int32],
    map_weights: NDArray[np.float32],
    *,
    fallback_T: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Carry raw logits as the published code does: in the source's order, the first value of a target id stands.

    A weight w of the map adds log w. Fallback rows have one id with logit 1. Returns offsets [T+1], ids and logits [N].
    """
    vocabulary_map = (map_offsets, map_ids, map_weights)
    values_PK = logits_PK.astype(np.float64)
    offsets, ids, logits = _project(
        ids_PK, values_PK, rows_T, *vocabulary_map, _fallback_ids(fallback_T, rows_T), LOGITS, None, 0.0
    )
    return offsets, ids, logits


def _fallback_ids(fallback_T: NDArray[np.int32] | None, rows_T: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.full(len(rows_T), -1, np.int32) if fallback_T is None else fallback_T


@numba.njit(cache=True, nogil=True)
def _entries(ids_PK, rows_T, map_offsets):  # type: ignore[no-untyped-def]
    """Return an upper bound of the number of entries."""
    entries = 0
    for row in rows_T:
        if row < 0:
            entries += 1
            continue
        for s in ids_PK[row]:
            if 0 <= s < len(map_offsets) - 1:
                entries += map_offsets[s + 1] - map_offsets[s]
    return entries


@numba.njit(cache=True, nogil=True)
def _project(  # type: ignore[no-untyped-def]
    ids_PK, values_PK, rows_T, map_offsets, map_ids, map_weights, fallback_T, rule, conditional, least
):
    offsets = np.zeros(len(rows_T) + 1, np.int64)
    entries = _entries(ids_PK, rows_T, map_offsets)
    ids, values = np.empty(entries, np.int32), np.empty(entries, np.float64)
    places = np.full(map_ids.max() + 1 if len(map_ids) else 0, -1, np.int64)  # where each target id was last written
    own = np.full(len(places) if conditional is not None else 0, -1, np.int64)
    n = 0
    for t in range(len(rows_T)):
        start, row = n, rows_T[t]
        if row < 0:
            if fallback_T[t] >= 0:
                ids[n], values[n] = fallback_T[t], 1.0
                n += 1
            offsets[t + 1] = n
            continue
        floor = _mark_own(conditional, t, own) if conditional is not None else -1.0
        for j in range(ids_PK.shape[1]):
            s = ids_PK[row, j]
            if 0 <= s < len(map_offsets) - 1:
                span = map_offsets[s], map_offsets[s + 1]
                scale = 0.0  # of a row that stays as it is
                if conditional is not None and floor >= 0.0 and span[1] - span[0] > 1:
                    scale = _scale(conditional, t, own, floor, map_ids, map_weights, span)
                for m in range(span[0], span[1]):
                    weight = np.float64(map_weights[m])
                    if conditional is not None and scale > 0.0:
                        weight *= scale * _own(conditional, t, own, floor, map_ids[m])
                    n = _put(ids, values, places, start, n, map_ids[m], values_PK[row, j], weight, rule)
        if rule == ADDED:
            sort_row(ids, values, start, n)
        if least > 0.0:
            n = _drop_small(ids, values, places, start, n, least)
        offsets[t + 1] = n
    return offsets, ids[:n].copy(), values[:n].copy()


@numba.njit(cache=True, nogil=True)
def _put(ids, values, places, start, n, token, value, weight, rule):  # type: ignore[no-untyped-def]
    """Give a token of the row [start, n) a value through a weight, or more of it; return the row's new end."""
    carried = value + np.log(weight) if rule == LOGITS else value * weight
    if weight <= 0.0 or (carried <= 0.0 and rule != LOGITS):
        return n
    place = places[token]
    if place >= start:
        if rule == ADDED:
            values[place] += carried
        return n
    ids[n], values[n], places[token] = token, carried, n
    return n + 1


@numba.njit(cache=True, nogil=True)
def _drop_small(ids, values, places, start, n, least):  # type: ignore[no-untyped-def]
    """Close the gaps that values below `least` leave in the row [start, n); return the row's new end."""
    best = values[start:n].max() if n > start else 0.0
    kept = start
    for i in range(start, n):
        places[ids[i]] = -1  # what stood behind the new end must not be taken for an entry of the next row
        if values[i] >= min(least, best):
            ids[kept], values[kept] = ids[i], values[i]
            kept += 1
    return kept


@numba.njit(cache=True, nogil=True)
def _mark_own(conditional, t, own):  # type: ignore[no-untyped-def]
    """Note where the target's kept ids at position t stand; return the floor of the others, -1 without a row."""
    q = conditional.rows_T[t]
    if q < 0:
        return -1.0
    width = conditional.ids_QK.shape[1]
    for j in range(width):
        token = conditional.ids_QK[q, j]
        if 0 <= token < len(own):
            own[token] = q * width + j
    return conditional.floor_Q[q]


@numba.njit(cache=True, nogil=True)
def _own(conditional, t, own, floor, token):  # type: ignore[no-untyped-def]
    """Return the target's own probability of a token at position t."""
    q, width = conditional.rows_T[t], conditional.ids_QK.shape[1]
    place = own[token]
    if place // width != q or place < 0:
        return floor
    return conditional.probs_QK[q, place - q * width]


@numba.njit(cache=True, nogil=True)
def _scale(conditional, t, own, floor, map_ids, map_weights, span):  # type: ignore[no-untyped-def]
    """Return what brings a re-weighted row of the map back to its own sum, 0 where the target rules all of it out."""
    before, after = 0.0, 0.0
    for m in range(span[0], span[1]):
        before += map_weights[m]
        after += map_weights[m] * _own(conditional, t, own, floor, map_ids[m])
    return before / after if after > 0.0 else 0.0


@numba.njit(cache=True, nogil=True)
def sort_row(ids, probs, start, stop):  # type: ignore[no-untyped-def]
    """Order one row by falling probability, then rising id, in place."""
    if stop - start > NARROW:
        order = np.argsort(ids[start:stop])
        by_id, of_id = ids[start:stop][order], probs[start:stop][order]
        order = np.argsort(-of_id, kind="mergesort")
        ids[start:stop], probs[start:stop] = by_id[order], of_id[order]
        return
    for i in range(start + 1, stop):  # such rows are nearly sorted
        token, mass = ids[i], probs[i]
        j = i
        while j > start and (probs[j - 1] < mass or (probs[j - 1] == mass and ids[j - 1] > token)):
            ids[j], probs[j] = ids[j - 1], probs[j - 1]
            j -= 1
        ids[j], probs[j] = token, mass
