"""Weight a map's rows by what the target itself expects at each position: Bayes' rule.

A row holds P(y|s): how often the target writes y where the source writes s, its habits included. Here the target
expects q(y) instead of its habit P(y), so the row becomes P(y|s)·q(y)/P(y), brought back to s's mass. Where the target
expects nothing in particular of the row's ids, every ratio is the same and the row stays what it is.
Legend: Q positions the target has captured, K kept tokens, T target positions, V target ids.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

LEAST_LEFT = 1e-9  # less of the habits than this left out is rounding: all ids with habits were kept


class Conditional(NamedTuple):
    """How much likelier the target finds tokens at its positions than it does on the whole."""

    ids_QK: NDArray[np.int32]
    ratios_QK: NDArray[np.float64]  # q(y) / P(y) of each kept id
    rest_Q: NDArray[np.float64]  # of every id that was left out
    rows_T: NDArray[np.int64]  # the row of each target position, -1 for none


def condition(
    ids_QK: NDArray[np.int32],
    probs_QK: NDArray[np.float64],
    tail_Q: NDArray[np.float64],
    rows_T: NDArray[np.int64],
    habits_V: NDArray[np.float64],
) -> Conditional:
    """Set the target's kept probabilities, and the mass it left out, against its habits P(y) [V], which sum to 1.

    Left-out mass is spread over the left-out ids in proportion to P(y), so that they share one ratio. A kept id of
    which no habit is known (P(y) = 0) has that ratio too: what is expected of it cannot be compared with anything.
    Ids below zero are filling.
    """
    habits_QK = np.where(ids_QK >= 0, habits_V[ids_QK], 0.0)
    left_Q = 1.0 - habits_QK.sum(axis=1)
    rest_Q = np.divide(tail_Q, left_Q, out=np.zeros(len(tail_Q)), where=left_Q > LEAST_LEFT)
    ratios_QK = np.broadcast_to(rest_Q[:, None], ids_QK.shape).copy()
    np.divide(probs_QK, habits_QK, out=ratios_QK, where=habits_QK > 0)
    return Conditional(ids_QK, ratios_QK, rest_Q, rows_T)


@numba.njit(cache=True, nogil=True)
def note_ratios(conditional, t, ratios_V):  # type: ignore[no-untyped-def]
    """Write the ratio of each id the target kept at position t; return that of the others, -1 without a row."""
    q = conditional.rows_T[t]
    if q < 0:
        return -1.0
    for j in range(conditional.ids_QK.shape[1]):
        token = conditional.ids_QK[q, j]
        if 0 <= token < len(ratios_V):
            ratios_V[token] = conditional.ratios_QK[q, j]
    return conditional.rest_Q[q]


@numba.njit(cache=True, nogil=True)
def wipe_ratios(conditional, t, ratios_V):  # type: ignore[no-untyped-def]
    """Take back what was noted at position t."""
    q = conditional.rows_T[t]
    for j in range(conditional.ids_QK.shape[1] if q >= 0 else 0):
        token = conditional.ids_QK[q, j]
        if 0 <= token < len(ratios_V):
            ratios_V[token] = -1.0


@numba.njit(cache=True, nogil=True)
def scale(ratios_V, rest, map_ids, map_weights, start, stop):  # type: ignore[no-untyped-def]
    """Return what brings a re-weighted row of the map back to its own sum, 0 where it is to stay as it is.

    It stays where the target kept none of its ids, and where the target rules all of them out.
    """
    before, after, kept = 0.0, 0.0, False
    for m in range(start, stop):
        ratio = ratios_V[map_ids[m]]
        kept = kept or ratio >= 0.0
        before += map_weights[m]
        after += map_weights[m] * (ratio if ratio >= 0.0 else rest)
    return before / after if kept and after > 0.0 else 0.0
