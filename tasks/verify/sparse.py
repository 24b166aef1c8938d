"""What must hold of sparse distributions on the target's vocabulary, in align and fuse alike."""

# legend: C chunks, T positions, N entries

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.sparse import row_sums, to_half_precision
from logitfuse.tasks.verify.chunks import Chunks, Lists, Problem
from logitfuse.tasks.verify.rounded import HALF_STEP, SLACK, not_logprobs
from logitfuse.tasks.verify.text import outside

BF16_STEP = 2.0**-8


@dataclass(frozen=True)
class SparseRows:
    """Rows of `size` possible ids, of which `counts` says how many each position has.

    `best_first`: rows are sorted. `rounded`: log-probabilities hold fp16 values. `roundings`: how often they were
    rounded on their way. `bf16`: probabilities are of bfloat16, so a row's sum may be off, and above 1.
    """

    size: int
    best_first: bool
    rounded: bool
    roundings: int = 1
    bf16: bool = False

    def shapes(self, chunks: Chunks, positions_C: NDArray[np.int64] | None) -> Iterator[Problem]:
        """Check that the lists belong together; `positions_C`: positions of each chunk, None where not known."""
        counts = chunks.lists("counts")
        if positions_C is not None:
            yield chunks.problem("it has not the positions that its tokens give", counts.lengths != positions_C)
        yield chunks.problem("mass is not one a position", chunks.lists("mass").lengths != counts.lengths)
        yield chunks.problem("counts below 0", counts.any(counts.values < 0))
        entries_C = row_sums(counts.offsets, counts.values.astype(np.float64))
        for name in ("ids", "logprobs"):
            yield chunks.problem(f"{name} are not as many as counts says", chunks.lists(name).lengths != entries_C)

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        """Check ids and probabilities of chunks whose lists belong together."""
        counts, ids, logprobs = chunks.lists("counts"), chunks.lists("ids"), chunks.lists("logprobs")
        row_of = np.repeat(np.arange(len(counts.values)), counts.values)
        yield chunks.problem(f"ids outside 0 to {self.size - 1}", ids.any(outside(ids.values, self.size)))
        entries = np.sort((row_of << 32) | (ids.values.astype(np.int64) & 0xFFFFFFFF))
        twice_T = np.zeros(len(counts.values), np.bool_)
        twice_T[(entries[1:] >> 32)[np.diff(entries) == 0]] = True
        yield chunks.problem("an id stands twice at one position", counts.any(twice_T))
        yield chunks.problem("logprobs are not finite, or above 0", logprobs.any(not_logprobs(logprobs.values)))
        if self.rounded:
            rounded = np.not_equal(to_half_precision(logprobs.values), logprobs.values)
            yield chunks.problem(
                "logprobs are not rounded to fp16", logprobs.any(rounded & np.isfinite(logprobs.values))
            )
        if self.best_first:
            rises_T = np.zeros(len(counts.values), np.bool_)
            rises_T[row_of[1:][(np.diff(logprobs.values) > 0) & (np.diff(row_of) == 0)]] = True
            yield chunks.problem("logprobs are not best first", counts.any(rises_T))
        yield from self._mass(chunks, counts, logprobs)

    def _mass(self, chunks: Chunks, counts: Lists, logprobs: Lists) -> Iterator[Problem]:
        mass = chunks.lists("mass")
        most = 1 + (BF16_STEP * 2 if self.bf16 else SLACK)
        yield chunks.problem("mass below 0 or above 1", mass.any(~((mass.values >= 0) & (mass.values <= most))))
        offsets = np.concatenate([[0], np.cumsum(counts.values, dtype=np.int64)])
        wide = logprobs.values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            probs = np.exp(wide)
            sums_T, moved_T = row_sums(offsets, probs), row_sums(offsets, np.abs(probs * wide))
        slack_T = SLACK + HALF_STEP * 1.01 * self.roundings * moved_T + (BF16_STEP * 2 if self.bf16 else 0)
        wrong_T = ~(np.abs(sums_T - mass.values) <= slack_T)
        yield chunks.problem("mass is not the sum of its probabilities", mass.any(wrong_T))
        yield chunks.problem("mass where nothing is kept", mass.any((counts.values == 0) & (mass.values != 0)))
