"""The compact codec's gold tokens: their log-probabilities are stored only where no kept token tells them.

Legend: C chunks, P positions, N kept tokens.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.rounding import LOGPROB_FLOOR, LOGPROB_SHARE
from logitfuse.storage.errors import ShardCorrupt

RANK_KNOWN_BELOW = 32  # `gold_rank` says 32 for that or later
Flat = tuple[NDArray[np.int64], NDArray[Any]]  # a list column: offsets [C+1] from 0, values


def stored_gold(flat: dict[str, Flat]) -> Flat:
    """Return the gold log-probabilities to be stored.

    Those of a chunk's gold tokens that are not among the kept ones; all of a chunk's where one that is kept has
    another log-probability there, because only what was kept is tempered, or estimated by drawing.
    """
    positions_C, gold_P = flat["gold_logprob"]
    elsewhere_P, place_P = _elsewhere(flat)
    kept_P = np.full(len(gold_P), np.nan, np.float32)
    kept_P[~elsewhere_P] = flat["logprobs"][1][place_P[~elsewhere_P]]
    step_P = 2 * np.maximum(LOGPROB_SHARE * np.abs(gold_P), LOGPROB_FLOOR)
    differs_P = ~elsewhere_P & ~(np.abs(gold_P - kept_P) <= step_P)
    chunk_P = np.repeat(np.arange(len(positions_C) - 1), np.diff(positions_C))
    stored_P = elsewhere_P | np.isin(chunk_P, chunk_P[differs_P])
    return _count_before(stored_P)[positions_C], gold_P[stored_P]


def gold(flat: dict[str, Flat], logprobs_N: NDArray[np.float32]) -> Flat:
    """Undo `stored_gold`; a chunk has as many stored values as positions, or as gold tokens that were not kept."""
    positions_C, rank_P = flat["gold_rank"]
    stored_C, stored = flat["gold_stored"]
    elsewhere_P, place_P = _elsewhere(flat)
    whole_C = np.diff(stored_C) == np.diff(positions_C)
    stored_P = elsewhere_P | np.repeat(whole_C, np.diff(positions_C))
    if not np.array_equal(_count_before(stored_P)[positions_C], stored_C):
        raise ShardCorrupt("a compact capture shard has not the gold log-probabilities that its ranks call for.")
    gold_P = np.empty(len(rank_P), np.float32)
    gold_P[stored_P], gold_P[~stored_P] = stored, logprobs_N[place_P[~stored_P]]
    return positions_C, gold_P


def _elsewhere(flat: dict[str, Flat]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return where the gold token is not known to be a kept one, and its place among the N where it is one."""
    counts_P, rank_P = flat["counts"][1], flat["gold_rank"][1]
    ends_P = np.cumsum(counts_P, dtype=np.int64)
    return rank_P >= np.minimum(counts_P, RANK_KNOWN_BELOW), ends_P - counts_P + rank_P


def _count_before(chosen_P: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(chosen_P, dtype=np.int64)])
