"""Levenshtein distance: the textbook version, and an exact search for the nearest of many texts.

Legend: Q queries, C choices.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Literal, get_args

import numba
import numpy as np
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from logitfuse.kernels.edit_search import search_nearest

Engine = Literal["numba", "rapidfuzz"]
Nearest = tuple[NDArray[np.int32], NDArray[np.int32]]

CELLS = 1 << 24  # distances that rapidfuzz holds at once: 64 MB


def edit_distance_reference(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Return how many insertions, deletions and substitutions, each costing 1, turn `a` into `b`.

    Works on str (code points), bytes, or any sequences; takes len(a)·len(b) steps.
    """
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]


def nearest_by_edit_distance(
    queries: Sequence[str], choices: Sequence[str], *, workers: int = 1, engine: Engine | None = None
) -> Nearest:
    """Return for each query the choice with the least Levenshtein distance over code points, and that distance.

    Ties go to the lowest index. Returns index int32 [Q] and distance int32 [Q], both -1 where there is nothing to
    choose from. Neither `workers` (threads) nor `engine` changes the result: "numba" is this project's own search,
    "rapidfuzz" compares all pairs and takes 3-10 times as long; None takes `usable_engine()`.
    Raises ValueError for an unknown engine.
    """
    chosen = engine or usable_engine()
    if chosen not in _ENGINES:
        raise ValueError(f"unknown engine {chosen!r} for edit distances. Known: {', '.join(get_args(Engine))}.")
    if not queries or not choices:
        return np.full(len(queries), -1, np.int32), np.full(len(queries), -1, np.int32)
    return _ENGINES[chosen](queries, choices, max(1, workers))


@cache
def usable_engine() -> Engine:
    """Return "numba" where its compiler works, else "rapidfuzz": found out once per process, on two letters.

    Switched off (NUMBA_DISABLE_JIT) the search would run as plain Python, hundreds of times slower than rapidfuzz.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return "rapidfuzz"
    try:
        search_nearest(["a"], ["b"], 1)
    except NumbaError as error:
        warnings.warn(
            f"numba cannot compile the search for nearest pieces here ({' '.join(str(error).split())[:200]}); "
            f"rapidfuzz compares all pairs instead, with the same result.",
            RuntimeWarning,
            stacklevel=2,
        )
        return "rapidfuzz"
    return "numba"


def compare_all(queries: Sequence[str], choices: Sequence[str], workers: int) -> Nearest:
    """Return what `search_nearest` returns, from all distances, which rapidfuzz computes a block of rows at a time."""
    from rapidfuzz.distance import Levenshtein  # here, so that a machine without it can do all else
    from rapidfuzz.process import cdist

    index, distance = np.empty(len(queries), np.int32), np.empty(len(queries), np.int32)
    rows = max(1, CELLS // len(choices))
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        distances = cdist(queries[block], choices, scorer=Levenshtein.distance, dtype=np.int32, workers=workers)
        index[block], distance[block] = distances.argmin(axis=1), distances.min(axis=1)
    return index, distance


_ENGINES: dict[str, Callable[[Sequence[str], Sequence[str], int], Nearest]] = {
    "numba": search_nearest,
    "rapidfuzz": compare_all,
}
