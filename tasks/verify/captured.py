"""What must hold of captured predictions."""

# legend: C chunks, P positions, K kept tokens

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.passages import passages
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.kernels.sparse import to_half_precision
from logitfuse.kernels.topk import RANK_CAP
from logitfuse.tasks.verify.chunks import Chunks, Lists, Problem
from logitfuse.tasks.verify.text import outside

ENCODE = "encode"
HALF_STEP = 2.0**-11  # a logarithm rounded to fp16 is off by at most this share of itself
SLACK = 1e-4  # beside it: float32 sums over a whole vocabulary


@dataclass(frozen=True)
class Reader:
    """How a model reads a chunk: the tokens around the text, and at how many positions it ends."""

    start: int | None
    end: int | None
    past_end: bool
    longest: int | None = None  # positions of a chunk that are kept, None for all

    def labels(self, chunks: Chunks, of: str = ENCODE) -> Lists:
        """Return what follows at each position of the chunks, NO_LABEL past the end token."""
        return self.read(chunks, of)[1]

    def read(self, chunks: Chunks, of: str = ENCODE) -> tuple[Lists, Lists]:
        """Return what a model reads at each position and what follows, from the shard of token ids `of`."""
        ids = chunks.lists("ids", of)
        last_C = chunks.numbers("last", of)
        no_ends = np.zeros(len(ids.values), np.int32)  # bytes are no part of this
        found = passages(
            ids.offsets, ids.values, no_ends, last_C, start=self.start, end=self.end, past_end=self.past_end
        )
        if self.longest is None:
            return Lists(found.offsets, found.inputs), Lists(found.offsets, found.labels)
        lengths_C = np.diff(found.offsets)
        kept_C = np.minimum(lengths_C, self.longest)
        number_P = np.arange(found.offsets[-1]) - np.repeat(found.offsets[:-1], lengths_C)
        kept_P = number_P < self.longest
        offsets = np.concatenate([[0], np.cumsum(kept_C)])
        return Lists(offsets, found.inputs[kept_P]), Lists(offsets, found.labels[kept_P])


class Captured:
    """The k likeliest of `width` tokens at every position, and how the token that follows fared."""

    def __init__(self, reader: Reader, k: int, width: int, raw_logits: bool) -> None:
        self._reader, self._k, self._width, self._raw = reader, k, width, raw_logits
        self._counted: Counter[str] = Counter(positions=0)

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        self._counted["positions"] += len(chunks.lists("tail").values)
        shapes = list(self._shapes(chunks))
        yield from shapes
        chunks = chunks.without(shapes)
        if len(chunks):
            yield from self._kept(chunks)
            yield from self._gold(chunks)

    def counted(self) -> dict[str, int]:
        return dict(self._counted)

    def left_over(self) -> str | None:
        return None

    def _shapes(self, chunks: Chunks) -> Iterator[Problem]:
        first = 0 if self._reader.start is not None else 1
        yield chunks.problem(f"first is not {first}, as the start token says", chunks.numbers("first") != first)
        positions_C = chunks.lists("tail").lengths
        if ENCODE in chunks:
            wanted_C = self._reader.labels(chunks).lengths
            yield chunks.problem("it has not the positions that its tokens give", positions_C != wanted_C)
        for name in ("ids", "logprobs"):
            wrong_C = chunks.lists(name).lengths != positions_C * self._k
            yield chunks.problem(f"{name} are not {self._k} a position", wrong_C)
        for name in ("gold_logprob", "gold_rank"):
            yield chunks.problem(f"{name} is not one a position", chunks.lists(name).lengths != positions_C)
        each = self._k if self._raw else 0
        yield chunks.problem(f"logits are not {each} a position", chunks.lists("logits").lengths != positions_C * each)

    def _kept(self, chunks: Chunks) -> Iterator[Problem]:
        """Check the kept tokens: known ones, each once, best first, their probabilities and the tail adding up to 1."""
        ids, logprobs, tail = chunks.lists("ids"), chunks.lists("logprobs"), chunks.lists("tail")
        yield chunks.problem(f"ids outside 0 to {self._width - 1}", ids.any(outside(ids.values, self._width)))
        ids_PK, logprobs_PK = ids.values.reshape(-1, self._k), logprobs.values.reshape(-1, self._k)
        twice_P = (np.diff(np.sort(ids_PK, axis=1), axis=1) == 0).any(axis=1)
        yield chunks.problem("a token is kept twice at one position", tail.any(twice_P))
        yield chunks.problem("logprobs are not finite, or above 0", logprobs.any(not_logprobs(logprobs.values)))
        rising_P = np.diff(logprobs_PK, axis=1).max(axis=1, initial=0) > 0
        yield chunks.problem("logprobs are not best first", tail.any(rising_P))
        rounded = np.not_equal(to_half_precision(logprobs.values), logprobs.values)
        yield chunks.problem("logprobs are not rounded to fp16", logprobs.any(rounded & np.isfinite(logprobs.values)))
        sums_P, slack_P = sums_and_slack(logprobs_PK)
        wrong_P = ~(np.abs(sums_P + tail.values - 1) <= slack_P) | ~((tail.values >= 0) & (tail.values <= 1))
        yield chunks.problem("kept probabilities and tail do not add up to 1", tail.any(wrong_P))
        if self._raw:
            yield from self._logits(chunks, ids_PK, tail)

    def _logits(self, chunks: Chunks, ids_PK: NDArray[np.int32], tail: Lists) -> Iterator[Problem]:
        logits = chunks.lists("logits").values
        logits_PK = logits.reshape(-1, self._k)
        with np.errstate(invalid="ignore"):
            steps_PK, rising_PK = np.diff(logits_PK, axis=1), np.diff(ids_PK, axis=1) > 0
        wrong_P = ((steps_PK > 0) | ((steps_PK == 0) & ~rising_PK)).any(axis=1) | ~np.isfinite(logits_PK).all(axis=1)
        yield chunks.problem("logits are not finite, or not best first (equal ones by lowest id)", tail.any(wrong_P))
        inexact_P = (to_half_precision(logits_PK) != logits_PK).any(axis=1)
        yield chunks.problem("logits are not rounded to fp16", tail.any(inexact_P))

    def _gold(self, chunks: Chunks) -> Iterator[Problem]:
        """Check the token that follows: where its rank says, as likely as that token, none past the end of the text."""
        gold, rank = chunks.lists("gold_logprob"), chunks.lists("gold_rank")
        wrong_P = ~np.isnan(gold.values) & not_logprobs(gold.values)
        yield chunks.problem("gold_logprob is not finite, or above 0", gold.any(wrong_P))
        yield chunks.problem(
            f"gold_rank outside 0 to {RANK_CAP}", rank.any((rank.values < 0) | (rank.values > RANK_CAP))
        )
        if ENCODE not in chunks:
            return
        labels = self._reader.labels(chunks).values
        there_P = labels != NO_LABEL
        wrong_P = there_P == np.isnan(gold.values)
        yield chunks.problem("gold_logprob does not stand exactly where a token follows", gold.any(wrong_P))
        yield from self._ranked(chunks, labels, gold, rank.values)

    def _ranked(
        self, chunks: Chunks, labels_P: NDArray[np.int32], gold: Lists, rank_P: NDArray[np.int32]
    ) -> Iterator[Problem]:
        ids_PK = chunks.lists("ids").values.reshape(-1, self._k)
        logprobs_PK = chunks.lists("logprobs").values.reshape(-1, self._k).astype(np.float64)
        kept_P = (rank_P >= 0) & (rank_P < min(self._k, RANK_CAP)) & (labels_P != NO_LABEL)
        at_P = np.where(kept_P, rank_P, 0)[:, None]
        other_P = np.take_along_axis(ids_PK, at_P, axis=1)[:, 0] != labels_P
        stray_P = (ids_PK[:, :RANK_CAP] == labels_P[:, None]).any(axis=1)  # a later one has no rank of its own
        yield chunks.problem(
            "the token that follows is not where gold_rank says", gold.any(np.where(kept_P, other_P, stray_P))
        )
        kept_as_P = np.take_along_axis(logprobs_PK, at_P, axis=1)[:, 0]
        with np.errstate(invalid="ignore"):
            off_P = np.abs(gold.values - kept_as_P) > 2 * HALF_STEP * np.abs(kept_as_P) + SLACK
        yield chunks.problem("gold_logprob is not that of the kept token", gold.any(kept_P & ~other_P & off_P))
        above_P = gold.values > logprobs_PK[:, :RANK_CAP][:, -1] * (1 - 2 * HALF_STEP) + SLACK
        yield chunks.problem("gold_logprob is above those of the kept tokens", gold.any(~kept_P & ~stray_P & above_P))


def not_logprobs(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say which values cannot be logarithms of probabilities that are kept."""
    return ~np.isfinite(values) | (values > 0)


def sums_and_slack(logprobs_PK: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of each row's probabilities and how far rounding to fp16 may have moved it, float64 [P] each."""
    with np.errstate(over="ignore", invalid="ignore"):
        wide_PK = logprobs_PK.astype(np.float64)
        probs_PK = np.exp(wide_PK)
        return probs_PK.sum(axis=1), HALF_STEP * np.abs(probs_PK * wide_PK).sum(axis=1) * 1.01 + SLACK
