"""Carry a source's distributions over to the target's vocabulary, through a sparse map.

Mass that falls on the same target token is added; the published code keeps the first entry only and loses the rest
(`first_wins`). Mass on tokens that the map does not know stays left out; it is never spread. Legend: P source
positions, K kept tokens, T target positions, V target ids, N entries.
"""

from collections.abc import Iterator

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.conditioning import Conditional
from logitfuse.kernels.projected_rows import ADDED, FIRST, LOGITS, projected_rows
from logitfuse.kernels.sparse import Sparse

TILE = 1 << 22  # entries for which room is made at a time: 48 MiB, unless one position alone needs more

Projected = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]


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
    is CSR by source id: id s becomes `map_ids[map_offsets[s]:map_offsets[s+1]]` with these weights, times how much
    likelier the target finds each there if `conditional` is given (s keeps its mass). Best first, equal probabilities
    by lowest id; with `first_wins` in the source's order, and a target id that already stands keeps its first value.
    Entries below `min_probability` are left out, a row's best never.
    """
    vocabulary_map = (map_offsets, map_ids, map_weights)
    fallback_T = _fallback_ids(fallback_T, rows_T)
    rule = FIRST if first_wins else ADDED
    return Sparse(*_in_tiles(ids_PK, probs_PK, rows_T, vocabulary_map, fallback_T, rule, conditional, min_probability))


def project_logits(
    ids_PK: NDArray[np.int32],
    logits_PK: NDArray[np.float32],
    rows_T: NDArray[np.int64],
    map_offsets: NDArray[np.int64],
    map_ids: NDArray[np.int32],
    map_weights: NDArray[np.float32],
    *,
    fallback_T: NDArray[np.int32] | None = None,
) -> Projected:
    """Carry raw logits as the published code does: in the source's order, the first value of a target id stands.

    A weight w of the map adds log w. Fallback rows have one id with logit 1. Returns offsets [T+1], ids and logits [N].
    """
    vocabulary_map = (map_offsets, map_ids, map_weights)
    values_PK = logits_PK.astype(np.float64)
    return _in_tiles(ids_PK, values_PK, rows_T, vocabulary_map, _fallback_ids(fallback_T, rows_T), LOGITS, None, 0.0)


def _fallback_ids(fallback_T: NDArray[np.int32] | None, rows_T: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.full(len(rows_T), -1, np.int32) if fallback_T is None else fallback_T


def _in_tiles(
    ids_PK: NDArray[np.int32],
    values_PK: NDArray[np.float64],
    rows_T: NDArray[np.int64],
    vocabulary_map: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]],
    fallback_T: NDArray[np.int32],
    rule: int,
    conditional: Conditional | None,
    least: float,
) -> Projected:
    """Project some target positions at a time, since room is made for as many entries as there might be at most."""
    entries_T = _most_entries(ids_PK, rows_T, vocabulary_map[0])
    tiles = []
    for tile in _tiles(entries_T):
        own = None if conditional is None else conditional._replace(rows_T=conditional.rows_T[tile])
        room = int(entries_T[tile].sum())
        tiles.append(
            projected_rows(ids_PK, values_PK, rows_T[tile], *vocabulary_map, fallback_T[tile], rule, own, least, room)
        )
    counts, ids, values = (parts[0] if len(tiles) == 1 else np.concatenate(parts) for parts in zip(*tiles, strict=True))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), ids, values


def _tiles(entries_T: NDArray[np.int64]) -> Iterator[slice]:
    """Cut the positions so that no tile of several has more than `TILE` entries; there is always one tile at least."""
    until_T, start = np.cumsum(entries_T), 0
    while start < len(until_T) or start == 0:
        before = until_T[start - 1] if start else 0
        stop = max(int(np.searchsorted(until_T, before + TILE, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


@numba.njit(cache=True, nogil=True)
def _most_entries(ids_PK, rows_T, map_offsets):  # type: ignore[no-untyped-def]
    """Return an upper bound of each target position's number of entries, int64 [T]."""
    entries_T = np.ones(len(rows_T), np.int64)
    for t, row in enumerate(rows_T):
        if row < 0:
            continue
        entries_T[t] = 0
        for s in ids_PK[row]:
            if 0 <= s < len(map_offsets) - 1:
                entries_T[t] += map_offsets[s + 1] - map_offsets[s]
    return entries_T
