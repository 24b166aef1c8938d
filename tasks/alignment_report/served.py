"""Which target positions an alignment serves, broken down; and how many tokens lie between common borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.alignment import ALIGNMENTS, Side, VocabularyPair
from logitfuse.tasks.alignment_report.scripts import LABELS
from logitfuse.tasks.alignment_report.tokens import Tokenised

SEGMENTS = ("1-1", "1-n", "n-1", "n-m")


def share_by(labels_T: Sequence[str], served_T: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return for each label its positions and the share of them that is served, most positions first."""
    names, index = np.unique(np.asarray(labels_T, object).astype(str), return_inverse=True)
    positions = np.bincount(index, minlength=len(names))
    served = np.bincount(index, weights=served_T, minlength=len(names))
    order = np.argsort(-positions, kind="stable")
    return [
        {"name": str(names[i]), "positions": int(positions[i]), "served": float(served[i] / positions[i])}
        for i in order
    ]


def reading_shares(serving_T: NDArray[np.integer], source: Side, target: Side) -> dict[str, float]:
    """Return shares of the served positions by what the source position had read when it predicted.

    `read_further`: text that the target's position has yet to predict; `read_less`: not all that it has read;
    `read_unknown`: a token before one of the two has no sure end. What is left has read the same bytes.
    """
    served_T = serving_T >= 0
    theirs, ours = source.bytes_P[serving_T[served_T]], target.bytes_P[served_T]
    known, count = (theirs >= 0) & (ours >= 0), max(len(ours), 1)
    return {
        "read_further": int((known & (theirs > ours)).sum()) / count,
        "read_less": int((known & (theirs < ours)).sum()) / count,
        "read_unknown": int((~known).sum()) / count,
    }


def script_names(tokenised: Tokenised) -> list[str]:
    """Return what the token predicted at each target position is written in."""
    labels = list(LABELS.values())
    return [labels[script] for script in tokenised.scripts.tolist()]


def segment_counts(tokenised: Tokenised, pair: VocabularyPair) -> dict[str, int]:
    """Count the stretches between neighbouring common borders by their tokens, the source's first.

    "1-n": one source token, several of the target. A text begins at a common border; tokens after the last border
    that both sides know are in no stretch.
    """
    source, target = tokenised.source.borders, tokenised.target.borders
    serving = ALIGNMENTS.get("offsets")(source, target, pair)
    at = np.flatnonzero(serving >= 0)
    chunk = np.searchsorted(target.position_offsets, at, side="right")
    within = np.diff(chunk) == 0
    single_source, single_target = (np.diff(read) == 1 for read in (serving[at], at))
    kinds = [
        single_source & single_target, single_source & ~single_target,
        ~single_source & single_target, ~single_source & ~single_target,
    ]  # fmt: skip
    return {name: int((kind & within).sum()) for name, kind in zip(SEGMENTS, kinds, strict=True)}
