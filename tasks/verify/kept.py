"""The kept tokens of captured chunks as one list, and what must hold of the probability they hold."""

# legend: C chunks, P positions, N kept tokens of all, K most tokens kept for certain at one position

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.sparse import rectangle, row_sums
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.verify.chunks import Chunks, Problem
from logitfuse.tasks.verify.rounded import Precision

NOTHING = -1  # an id that no token has


@dataclass(frozen=True)
class Kept:
    """Where each position's tokens lie, and those that are kept for certain, side by side."""

    offsets: NDArray[np.int64]  # [P+1], every position has at least one
    position_N: NDArray[np.int64]
    first_N: NDArray[np.int64]  # the place of the best token of each one's position
    certain_P: NDArray[np.int64]  # how many each position keeps for certain, not drawn
    ids_PK: NDArray[np.int32]  # those kept for certain, NOTHING where there are fewer
    logprobs_PK: NDArray[np.float32]  # -inf where there are fewer

    @staticmethod
    def of(chunks: Chunks) -> Kept:
        """Return the kept tokens of chunks whose lists belong together."""
        counts_P, draws_N = chunks.lists("counts").values, chunks.lists("draws").values
        ids_N, logprobs_N = chunks.lists("ids").values, chunks.lists("logprobs").values
        offsets = np.concatenate([[0], np.cumsum(counts_P, dtype=np.int64)])
        certain_N = draws_N == 0 if len(draws_N) else np.ones(len(ids_N), np.bool_)
        certain_P = row_sums(offsets, certain_N.astype(np.float64)).astype(np.int64)
        return Kept(
            offsets,
            np.repeat(np.arange(len(counts_P)), counts_P),
            np.repeat(offsets[:-1], counts_P),
            certain_P,
            rectangle(certain_P, ids_N[certain_N], NOTHING),
            rectangle(certain_P, logprobs_N[certain_N], -np.inf),
        )

    def steps(self, found: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say of which tokens something holds that was found between each and the one before it; not of the first."""
        steps_N = np.concatenate([[False], found])[: len(self.position_N)]
        steps_N[self.offsets[:-1]] = False
        return steps_N


def mass_problems(chunks: Chunks, kept: Kept, settings: CaptureSettings, precision: Precision) -> Iterator[Problem]:
    """Check that probabilities and tail add up to 1, and in mode topp that just enough are kept."""
    tail, wide_N = chunks.lists("tail"), chunks.lists("logprobs").values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        probs_N = np.exp(wide_N)
        sums_P, moved_P = row_sums(kept.offsets, probs_N), row_sums(kept.offsets, np.abs(probs_N * wide_N))
        slack_P = precision.of_sums(moved_P, tail.values)
    wrong_P = ~(np.abs(sums_P + tail.values - 1) <= slack_P) | ~((tail.values >= 0) & (tail.values <= 1))
    yield chunks.problem("kept probabilities and tail do not add up to 1", tail.any(wrong_P))
    if settings.mode == "topp":
        counts_P, last_P = np.diff(kept.offsets), probs_N[kept.offsets[1:] - 1]
        few_P = (counts_P < settings.k) & (sums_P < settings.top_p - slack_P)
        yield chunks.problem("kept tokens do not reach capture.top_p, with fewer than capture.k", tail.any(few_P))
        many_P = (counts_P > 1) & (sums_P - last_P >= settings.top_p + slack_P)
        yield chunks.problem("more tokens are kept than reach capture.top_p", tail.any(many_P))


def drawn_problems(chunks: Chunks, kept: Kept, settings: CaptureSettings, precision: Precision) -> Iterator[Problem]:
    """Check mode sampled: k tokens for certain, as many draws as asked for, and their tokens' share of the rest."""
    draws, tail, logprobs_N = chunks.lists("draws"), chunks.lists("tail"), chunks.lists("logprobs").values
    yield chunks.problem("draws below 0", draws.any(draws.values < 0))
    yield chunks.problem("tokens kept for certain are not capture.k", tail.any(kept.certain_P != settings.k))
    yield chunks.problem("tail is not 0, where draws stand for it", tail.any(tail.values != 0))
    drawn_P = row_sums(kept.offsets, np.maximum(draws.values, 0).astype(np.float64))
    yield chunks.problem(
        f"draws do not add up to {settings.draws}", tail.any((drawn_P != settings.draws) & (drawn_P != 0))
    )
    drawn_N = draws.values > 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        probs_N = np.where(drawn_N, np.exp(logprobs_N.astype(np.float64)), 0.0)
        unit_P = np.log(row_sums(kept.offsets, probs_N) / drawn_P)
        off_N = np.abs(logprobs_N - unit_P[kept.position_N] - np.log(draws.values))
    # The rest is itself a sum of rounded numbers, none of which is more off than the least likely.
    last_P = logprobs_N[kept.offsets[1:] - 1]
    allowed_N = 2 * precision.of_logprobs(last_P)[kept.position_N] + 1e-4
    yield chunks.problem(
        "probabilities of drawn tokens are not in proportion to their draws", draws.any(drawn_N & ~(off_N <= allowed_N))
    )
