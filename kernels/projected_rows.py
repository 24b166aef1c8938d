"""The entries of projected rows: what each kept token of the source becomes, put together, sorted and thinned out.

Legend: P source positions, K kept tokens, T target positions, N entries.
"""

import numba
import numpy as np

from logitfuse.kernels.conditioning import note_ratios, scale, wipe_ratios

ADDED, FIRST, LOGITS = 0, 1, 2  # what becomes of a value whose target id already stands; LOGITS: first, as logits
NARROW = 48  # entries up to which a row is sorted by insertion


@numba.njit(cache=True, nogil=True)
def projected_rows(  # type: ignore[no-untyped-def]
    ids_PK, values_PK, rows_T, map_offsets, map_ids, map_weights, fallback_T, rule, conditional, least, room
):
    """Return each position's number of entries [T], their ids and values [N], of which there are `room` at most."""
    counts = np.zeros(len(rows_T), np.int64)
    ids, values = np.empty(room, np.int32), np.empty(room, np.float64)
    places = np.full(map_ids.max() + 1 if len(map_ids) else 0, -1, np.int64)  # where each target id was last written
    ratios_V = np.full(len(places) if conditional is not None else 0, -1.0)  # below zero: not kept
    n = 0
    for t in range(len(rows_T)):
        start, row = n, rows_T[t]
        if row < 0:
            if fallback_T[t] >= 0:
                ids[n], values[n] = fallback_T[t], 1.0
                n += 1
            counts[t] = n - start
            continue
        rest = note_ratios(conditional, t, ratios_V) if conditional is not None else -1.0
        for j in range(ids_PK.shape[1]):
            s = ids_PK[row, j]
            if 0 <= s < len(map_offsets) - 1:
                span = map_offsets[s], map_offsets[s + 1]
                whole = 0.0  # of a row that stays as it is
                if rest >= 0.0 and span[1] - span[0] > 1:
                    whole = scale(ratios_V, rest, map_ids, map_weights, span[0], span[1])
                for m in range(span[0], span[1]):
                    weight = np.float64(map_weights[m])
                    if whole > 0.0:
                        ratio = ratios_V[map_ids[m]]
                        weight *= whole * (ratio if ratio >= 0.0 else rest)
                    n = _put(ids, values, places, start, n, map_ids[m], values_PK[row, j], weight, rule)
        if conditional is not None:
            wipe_ratios(conditional, t, ratios_V)
        if rule == ADDED:
            sort_row(ids, values, start, n)
        if least > 0.0:
            n = _drop_small(ids, values, places, start, n, least)
        counts[t] = n - start
    return counts, ids[:n].copy(), values[:n].copy()


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
