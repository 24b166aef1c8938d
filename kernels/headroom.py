"""Headroom: how well targets predict the true tokens, against the model that is to learn from them.

Legend: S sources, T positions, P positions of a source, K tokens kept of the target model's own predictions, N widest
support.
"""

from collections import defaultdict
from enum import IntEnum
from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from logitfuse.kernels.losses.residuals import RESIDUALS
from logitfuse.kernels.sparse import Sparse


class TokenClass(IntEnum):
    """How the source's next token lies to the target's next token."""

    UNSERVED = 0  # no position of the source serves this one
    SAME = 1  # both end at the same byte
    LONGER = 2  # the source's goes on after the target's has ended
    SHORTER = 3
    UNKNOWN = 4  # where one of them ends is not known
    OWN = 5  # the target model's own prediction, and no source serves


class OwnPredictions(NamedTuple):
    """What the target model itself predicts before training: log-probability of the true token, and its top-k."""

    gold_T: NDArray[np.float64]
    ids_TK: NDArray[np.int32]
    probs_TK: NDArray[np.float64]


def token_classes(
    source_next_P: NDArray[np.int64], target_next_T: NDArray[np.int64], source_T: NDArray[np.int64]
) -> NDArray[np.int8]:
    """Return the class of each target position, int8 [T].

    `source_next_P`, `target_next_T`: the byte at which the token that follows each position ends, -1 where unknown.
    `source_T`: the source position that serves each target position, -1 for none.
    """
    found = np.full(len(target_next_T), TokenClass.UNSERVED, np.int8)
    served = np.flatnonzero(source_T >= 0)
    source, target = source_next_P[source_T[served]], target_next_T[served]
    unknown = (source < 0) | (target < 0)
    found[served] = np.select(
        [unknown, source == target, source > target],
        [TokenClass.UNKNOWN, TokenClass.SAME, TokenClass.LONGER],
        TokenClass.SHORTER,
    )
    return found


def fused_classes(classes_ST: NDArray[np.int8], winner_T: NDArray[np.int32]) -> NDArray[np.int8]:
    """Return the class of each fused position, int8 [T]: that of the source that counts most there.

    Where that is the target model itself, the class is that of the first source that serves the position: it has its
    share in a mixture, and the harm it does there must not hide behind OWN. `winner_T`: -1 where nothing is taught.
    """
    at_T = np.arange(len(winner_T))
    chosen_T = classes_ST[winner_T, at_T]
    serves_ST = (classes_ST != TokenClass.OWN) & (classes_ST != TokenClass.UNSERVED)
    first_T = classes_ST[serves_ST.argmax(axis=0), at_T]
    found_T = np.where((chosen_T == TokenClass.OWN) & serves_ST.any(axis=0), first_T, chosen_T)
    return np.where(winner_T >= 0, found_T, np.int8(TokenClass.UNSERVED))


def gold_nats(
    targets: Sparse, mass_T: NDArray[np.floating], labels_T: NDArray[np.int32], own: OwnPredictions, residual: str
) -> NDArray[np.float64]:
    """Return -log of what the targets, as the loss reads them, give the true token: float64 [T], NaN where none is.

    In the support: the kept probability. Outside: the rest that the residual rule leaves, times the share that the true
    token has of the target model's own mass outside the support (the loss leaves it spread as the student spreads
    it); infinite where nothing is left. The target model's mass is known on its top-k only: ids of the support that
    are not among them count as outside, so that share comes out too small and the targets look worse, never better.
    """
    if len(targets) == 0:
        return np.zeros(0)
    ids_TN, probs_TN = _padded(targets)
    tail_T = np.clip(1 - mass_T.astype(np.float64), 0, 1)
    matched = RESIDUALS.get(residual)(torch.from_numpy(probs_TN), torch.from_numpy(tail_T))
    is_gold_TN = (ids_TN == labels_T[:, None]) & (probs_TN > 0)
    gold_T = np.exp(own.gold_T)
    # The true token lies outside, so no less than its own probability does.
    outside_T = np.maximum(_mass_outside(targets.offsets, targets.ids, own.ids_TK, own.probs_TK), gold_T)
    share_T = np.divide(gold_T, outside_T, out=np.zeros_like(gold_T), where=outside_T > 0)
    kept_T = np.where(is_gold_TN, matched.kept_NK.numpy(), 0.0).sum(axis=1)
    prob_T = np.where(is_gold_TN.any(axis=1), kept_T, matched.rest_N.numpy() * share_T)
    with np.errstate(divide="ignore"):
        return np.where(targets.counts > 0, -np.log(prob_T), np.nan)


class Compared(NamedTuple):
    """Sums over the positions of one group; `compared` are those that have a target and are not ruled out."""

    positions: float = 0
    taught: float = 0  # have a target
    ruled_out: float = 0  # the target gives the true token no probability at all
    own: float = 0  # nats of the target model itself, where taught
    own_compared: float = 0
    targets: float = 0  # nats under the targets, where compared; elsewhere they are infinite
    own_anywhere: float = 0

    @property
    def compared(self) -> float:
        return self.taught - self.ruled_out


class Tally:
    """Adds up positions by (split, subject, domain, class)."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str, str, TokenClass], Compared] = defaultdict(Compared)

    def add(
        self,
        group: tuple[str, str, str],
        classes_T: NDArray[np.int8],
        own_T: NDArray[np.float64],
        nats_T: NDArray[np.float64],
    ) -> None:
        """Add the positions of one chunk; `own_T` and `nats_T` as -log p, NaN and infinite as `gold_nats` gives."""
        finite_T, taught_T = np.isfinite(nats_T), ~np.isnan(nats_T)
        sums = np.stack(
            [
                np.ones(len(own_T)),
                taught_T,
                np.isposinf(nats_T),
                np.where(taught_T, own_T, 0.0),
                np.where(finite_T, own_T, 0.0),
                np.where(finite_T, nats_T, 0.0),
                own_T,
            ]
        )
        for kind in np.unique(classes_T):
            key = (*group, TokenClass(int(kind)))
            here = sums[:, classes_T == kind].sum(axis=1)
            self.groups[key] = Compared(*(np.array(self.groups[key]) + here).tolist())


def _padded(targets: Sparse) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return ids and probabilities [T, N]; padding has probability 0."""
    there = np.arange(int(targets.counts.max(initial=1)))[None, :] < targets.counts[:, None]
    ids, probs = np.zeros(there.shape, np.int32), np.zeros(there.shape, np.float64)
    ids[there], probs[there] = targets.ids, targets.probs
    return ids, probs


@numba.njit(cache=True, nogil=True)
def _mass_outside(offsets, ids, own_ids, own_probs):  # type: ignore[no-untyped-def]
    """Return 1 minus the sum of the target model's probabilities on each support, as far as its top-k holds them."""
    outside = np.ones(len(offsets) - 1)
    for t in range(len(outside)):
        for k in range(own_ids.shape[1]):
            for i in range(offsets[t], offsets[t + 1]):
                if ids[i] == own_ids[t, k]:
                    outside[t] -= own_probs[t, k]
                    break
    return outside
