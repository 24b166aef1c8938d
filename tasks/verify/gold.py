"""What must hold of the token that really follows: its rank, its log-probability, and both beside the kept tokens."""

# legend: P positions, K most tokens kept for certain at one position, R as many of those as ranks tell apart

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.kernels.topk import RANK_CAP
from logitfuse.tasks.verify.chunks import Chunks, Problem
from logitfuse.tasks.verify.kept import Kept
from logitfuse.tasks.verify.reader import ENCODE
from logitfuse.tasks.verify.rounded import SLACK, Precision, not_logprobs

if TYPE_CHECKING:
    from logitfuse.tasks.verify.captured import Rules


def gold_problems(chunks: Chunks, kept: Kept, rules: Rules) -> Iterator[Problem]:
    """Check the token that follows: where its rank says, as likely as that token, none past the end of the text."""
    gold, rank = chunks.lists("gold_logprob"), chunks.lists("gold_rank")
    wrong_P = ~np.isnan(gold.values) & not_logprobs(gold.values)
    yield chunks.problem("gold_logprob is not finite, or above 0", gold.any(wrong_P))
    unrounded_P = rules.precision.unrounded_logprobs(gold.values)
    yield chunks.problem("gold_logprob has more digits than are kept", gold.any(unrounded_P))
    yield chunks.problem(f"gold_rank outside 0 to {RANK_CAP}", rank.any((rank.values < 0) | (rank.values > RANK_CAP)))
    if ENCODE not in chunks:
        return
    labels_P = rules.reader.labels(chunks).values
    there_P = labels_P != NO_LABEL
    yield chunks.problem(
        "gold_logprob does not stand exactly where a token follows", gold.any(there_P == np.isnan(gold.values))
    )
    at_P = np.where((rank.values >= 0) & there_P, rank.values, RANK_CAP)
    kept_P = at_P < np.minimum(kept.certain_P, RANK_CAP)
    at_P = np.where(kept_P, at_P, 0)
    other_P = kept.ids_PK[np.arange(len(at_P)), at_P] != labels_P
    stray_P = (kept.ids_PK[:, :RANK_CAP] == labels_P[:, None]).any(axis=1)  # a later one has no rank of its own
    misplaced_P = np.where(kept_P, other_P, stray_P)
    yield chunks.problem("the token that follows is not where gold_rank says", gold.any(misplaced_P))
    if rules.settings.temperature == 1:  # else only what is kept is tempered
        off_P, above_P = _unlike_kept(kept, gold.values, at_P, rules.precision)
        yield chunks.problem("gold_logprob is not that of the kept token", gold.any(kept_P & ~other_P & off_P))
        yield chunks.problem("gold_logprob is above those of the kept tokens", gold.any(~kept_P & ~stray_P & above_P))


def _unlike_kept(
    kept: Kept, gold_P: NDArray[np.float32], at_P: NDArray[np.int64], precision: Precision
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say where gold log-probabilities are not those of the tokens at `at_P`, and where above all that are kept."""
    rows_P = np.arange(len(at_P))
    last_P = np.minimum(kept.certain_P, RANK_CAP) - 1
    with np.errstate(invalid="ignore"):
        mine_P, least_P = (kept.logprobs_PK[rows_P, places].astype(np.float64) for places in (at_P, last_P))
        off_P = np.abs(gold_P - mine_P) > 2 * precision.of_logprobs(mine_P) + SLACK
        return off_P, gold_P > least_P + 2 * precision.of_logprobs(least_P) + SLACK
