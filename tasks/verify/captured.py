"""What must hold of captured predictions, whatever the mode: their shape, their order, their sums."""

# legend: C chunks, P positions, N kept tokens of all, K most tokens kept for certain at one position

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.sparse import row_sums, to_half_precision
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.verify.chunks import Chunks, Lists, Problem
from logitfuse.tasks.verify.gold import gold_problems
from logitfuse.tasks.verify.kept import Kept, drawn_problems, mass_problems
from logitfuse.tasks.verify.reader import ENCODE, Reader
from logitfuse.tasks.verify.rounded import Precision, not_logprobs
from logitfuse.tasks.verify.text import outside


@dataclass(frozen=True)
class Rules:
    """What one shard was made by: a model's way to read and its `width` of logits, settings, and the shard's codec."""

    reader: Reader
    settings: CaptureSettings
    width: int
    precision: Precision

    @property
    def least(self) -> int:
        """The fewest tokens that a position keeps."""
        return 1 if self.settings.mode == "topp" else self.settings.k

    @property
    def most(self) -> int:
        """The most tokens that a position keeps."""
        return self.settings.k + (self.settings.draws if self.settings.mode == "sampled" else 0)


class Captured:
    """Some tokens of `width` at every position, and how the token that follows fared."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._counted: Counter[str] = Counter(positions=0, kept=0)

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        self._counted.update(positions=len(chunks.lists("tail").values), kept=len(chunks.lists("ids").values))
        shapes = list(self._shapes(chunks))
        yield from shapes
        chunks = chunks.without(shapes)
        if len(chunks):
            kept = Kept.of(chunks)
            yield from self._kept(chunks, kept)
            yield from mass_problems(chunks, kept, self._rules.settings, self._rules.precision)
            if self._rules.settings.mode == "sampled":
                yield from drawn_problems(chunks, kept, self._rules.settings, self._rules.precision)
            yield from gold_problems(chunks, kept, self._rules)

    def counted(self) -> dict[str, int]:
        return dict(self._counted)

    def left_over(self) -> str | None:
        return None

    def _shapes(self, chunks: Chunks) -> Iterator[Problem]:
        reader, least, most = self._rules.reader, self._rules.least, self._rules.most
        first = 0 if reader.start is not None else 1
        yield chunks.problem(f"first is not {first}, as the start token says", chunks.numbers("first") != first)
        positions_C = chunks.lists("tail").lengths
        if ENCODE in chunks:
            wanted_C = reader.labels(chunks).lengths
            yield chunks.problem("it has not the positions that its tokens give", positions_C != wanted_C)
        for name in ("counts", "gold_logprob", "gold_rank"):
            yield chunks.problem(f"{name} is not one a position", chunks.lists(name).lengths != positions_C)
        counts = chunks.lists("counts")
        asked = f"{least}" if least == most else f"{least} to {most}"
        wrong_P = (counts.values < least) | (counts.values > most)
        yield chunks.problem(f"counts are not {asked}, as capture's settings say", counts.any(wrong_P))
        entries_C = row_sums(counts.offsets, counts.values.astype(np.float64))
        there = {"ids": True, "logprobs": True, "draws": self._rules.settings.mode == "sampled"}
        for name, wanted in (there | {"logits": self._rules.settings.raw_logits}).items():
            words = "as many as counts says" if wanted else "empty, as capture's settings ask"
            yield chunks.problem(f"{name} are not {words}", chunks.lists(name).lengths != entries_C * wanted)

    def _kept(self, chunks: Chunks, kept: Kept) -> Iterator[Problem]:
        """Check the kept tokens: known ones, each once, best first, and no more digits than are kept."""
        ids, logprobs, tail = chunks.lists("ids"), chunks.lists("logprobs"), chunks.lists("tail")
        yield chunks.problem(
            f"ids outside 0 to {self._rules.width - 1}", ids.any(outside(ids.values, self._rules.width))
        )
        entries = np.sort((kept.position_N << 32) | (ids.values.astype(np.int64) & 0xFFFFFFFF))
        twice_P = np.zeros(len(tail.values), np.bool_)
        twice_P[(entries[1:] >> 32)[np.diff(entries) == 0]] = True
        yield chunks.problem("a token is kept twice at one position", tail.any(twice_P))
        yield chunks.problem("logprobs are not finite, or above 0", logprobs.any(not_logprobs(logprobs.values)))
        with np.errstate(invalid="ignore"):
            rising = kept.steps(np.diff(logprobs.values) > 0)
        yield chunks.problem("logprobs are not best first", logprobs.any(rising))
        precision = self._rules.precision
        unrounded = precision.unrounded_logprobs(logprobs.values)
        yield chunks.problem("logprobs have more digits than are kept", logprobs.any(unrounded))
        yield chunks.problem("tail has more digits than are kept", tail.any(precision.unrounded_mass(tail.values)))
        if self._rules.settings.raw_logits:
            yield from self._logits(chunks, kept, chunks.lists("logits"), ids.values)

    def _logits(self, chunks: Chunks, kept: Kept, logits: Lists, ids_N: NDArray[np.int32]) -> Iterator[Problem]:
        with np.errstate(invalid="ignore"):
            steps = np.diff(logits.values)
        unsorted = kept.steps((steps > 0) | ((steps == 0) & (np.diff(ids_N) < 0))) | ~np.isfinite(logits.values)
        yield chunks.problem("logits are not finite, or not best first (equal ones by lowest id)", logits.any(unsorted))
        yield chunks.problem(
            "logits are not rounded to fp16", logits.any(to_half_precision(logits.values) != logits.values)
        )
        logprobs_N = chunks.lists("logprobs").values
        with np.errstate(invalid="ignore"):
            between_N = (logits.values - logits.values[kept.first_N]) - (logprobs_N - logprobs_N[kept.first_N])
            allowed_N = 2 * self._rules.precision.of_logprobs(logprobs_N) + 1e-4
            off_N = np.abs(between_N) > allowed_N
        yield chunks.problem("logits and logprobs do not agree", logits.any(off_N & np.isfinite(logits.values)))
