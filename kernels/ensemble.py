"""Ensembles at test time: mixtures of models with different tokenizers, over the spans between their byte boundaries.

A *span* is the shortest stretch of text whose two ends are token boundaries of every model that is in the middle of
its text there. A model's probability of a span is the product of its tokens' probabilities given the true text before.
Which models score a span: those that score all of it. One that has read as much as its context holds, or that does
not predict its first token, is left out of the mixture there and nowhere else.
"""

# legend: C chunks, B boundaries, S members

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.scores import ScoredChunks, SharedSteps, byte_boundaries, nats_by_step


def member_spans(members: Sequence[ScoredChunks]) -> SharedSteps:
    """Return the spans of each chunk: the bytes they end at, and each member's nats of them, NaN where it has none.

    The first boundary of a chunk begins its first span and has 0 nats. A byte is a boundary if every member that has
    scored text on both sides of it has a token that ends there; beyond where a member begins or ends, it has no say.
    """
    own = [byte_boundaries(member) for member in members]
    offsets, found = _cuts(
        np.stack([o for o, _ in own]), np.concatenate([b for _, b in own]), np.cumsum([0, *(len(b) for _, b in own)])
    )
    nats_SB = np.full((len(members), len(found)), np.nan)
    for s, (member, (own_offsets, own_bytes)) in enumerate(zip(members, own, strict=True)):
        inside_B = _inside(offsets, found, own_offsets, own_bytes)
        kept = np.concatenate([[0], np.cumsum(inside_B)])[offsets]
        nats_SB[s, inside_B] = nats_by_step(kept, found[inside_B], member)
        nats_SB[s, np.flatnonzero(inside_B)[kept[:-1][np.diff(kept) > 0]]] = np.nan  # where it begins it scores nothing
    nats_SB[:, offsets[:-1][np.diff(offsets) > 0]] = 0.0
    return SharedSteps(offsets, found, nats_SB)


def mix_spans(
    spans: SharedSteps, begins_C: NDArray[np.bool_], weights_S: NDArray[np.float64], *, bayes: bool
) -> ScoredChunks:
    """Return the mixture's nats of each span: -log Σ w p, over the members that score it, their weights renormalised.

    `weights_S` (all > 0) stay as they are, or with `bayes` are what each document (`begins_C`: chunks that begin one)
    begins with, and follow Bayes' rule: after each span a member's weight is multiplied with its probability of the
    span over the mixture's. A member that does not score a span keeps its weight, as if it had said what the mixture
    says (Freund et al., 1997). A chunk's text is scored up to the first span that no member scores.
    """
    logs_S = np.log(weights_S / weights_S.sum())
    return ScoredChunks(*_mixed(*spans, begins_C, logs_S, bayes))


@numba.njit(cache=True, nogil=True)
def _cuts(offsets_SC, every, bases):  # type: ignore[no-untyped-def]
    """Find the boundaries that no member has its own text across, [B], and where those of each chunk begin, [C+1]."""
    members, chunks = len(offsets_SC), offsets_SC.shape[1] - 1
    out_offsets, out = np.zeros(chunks + 1, np.int64), np.empty(len(every), np.int64)
    n = 0
    for c in range(chunks):
        at = np.empty(members, np.int64)  # the first boundary of each member that is not below the one looked at
        for s in range(members):
            at[s] = bases[s] + offsets_SC[s, c]
        while True:
            lowest = -1
            for s in range(members):
                if at[s] < bases[s] + offsets_SC[s, c + 1] and (lowest < 0 or every[at[s]] < lowest):
                    lowest = every[at[s]]
            if lowest < 0:
                break
            shared = True
            for s in range(members):
                begin, stop = bases[s] + offsets_SC[s, c], bases[s] + offsets_SC[s, c + 1]
                if at[s] < stop and every[at[s]] == lowest:
                    at[s] += 1
                elif begin < at[s] < stop:  # it has text on both sides and no boundary here
                    shared = False
            if shared:
                out[n] = lowest
                n += 1
        out_offsets[c + 1] = n
    return out_offsets, out[:n].copy()


@numba.njit(cache=True, nogil=True)
def _inside(offsets, found, own_offsets, own):  # type: ignore[no-untyped-def]
    """Say which boundaries lie between the first and the last one of a member, [B]."""
    inside_B = np.zeros(len(found), np.bool_)
    for c in range(len(offsets) - 1):
        if own_offsets[c + 1] > own_offsets[c]:
            low, high = own[own_offsets[c]], own[own_offsets[c + 1] - 1]
            for b in range(offsets[c], offsets[c + 1]):
                inside_B[b] = low <= found[b] <= high
    return inside_B


@numba.njit(cache=True, nogil=True)
def _mixed(offsets, found, nats_SB, begins_C, prior_S, bayes):  # type: ignore[no-untyped-def]
    members, chunks = len(nats_SB), len(offsets) - 1
    out_offsets, begin_C = np.zeros(chunks + 1, np.int64), np.full(chunks, -1, np.int64)
    ends, nats = np.empty(len(found), np.int64), np.empty(len(found))
    logs_S = prior_S.copy()
    n = 0
    for c in range(chunks):
        if begins_C[c]:
            logs_S = prior_S.copy()
        for b in range(offsets[c] + 1, offsets[c + 1]):
            top, top_weight = -np.inf, -np.inf
            for s in range(members):
                if not np.isnan(nats_SB[s, b]):
                    top, top_weight = max(top, logs_S[s] - nats_SB[s, b]), max(top_weight, logs_S[s])
            if top_weight == -np.inf:
                break
            total, weight = 0.0, 0.0
            for s in range(members):
                if not np.isnan(nats_SB[s, b]):
                    total += np.exp(logs_S[s] - nats_SB[s, b] - top) if top > -np.inf else 0.0
                    weight += np.exp(logs_S[s] - top_weight)
            mixed = top_weight + np.log(weight) - top - np.log(total) if total > 0.0 else np.inf
            if bayes and mixed < np.inf:
                for s in range(members):
                    if not np.isnan(nats_SB[s, b]):
                        logs_S[s] += mixed - nats_SB[s, b]
            begin_C[c] = found[offsets[c]]
            ends[n], nats[n] = found[b], max(mixed, 0.0)
            n += 1
        out_offsets[c + 1] = n
    return out_offsets, begin_C, ends[:n].copy(), nats[:n].copy()
