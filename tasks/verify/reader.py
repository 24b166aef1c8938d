"""How a model reads chunks, told from the tokens alone: what stage capture does, by other means."""

# legend: C chunks, P positions

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from logitfuse.kernels.fusion.passages import passages
from logitfuse.tasks.verify.chunks import Chunks, Lists

ENCODE = "encode"


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
