"""What must hold of aligned distributions and of the vocabulary map they went through."""

# legend: C chunks, T target positions, S source ids

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from logitfuse.kernels.sparse import row_sums
from logitfuse.kernels.vocabulary_map import How
from logitfuse.tasks.verify.chunks import Chunks, Problem
from logitfuse.tasks.verify.reader import ENCODE, Reader
from logitfuse.tasks.verify.rounded import SLACK
from logitfuse.tasks.verify.sparse import SparseRows
from logitfuse.tasks.verify.text import outside

CAPTURE = "capture"


class Aligned:
    """A source's distributions at the target's positions; `fallback`: also where the source serves none."""

    def __init__(self, reader: Reader, rows: SparseRows, *, logits: bool, fallback: bool) -> None:
        self._reader, self._rows = reader, rows
        self._logits, self._fallback = logits, fallback
        self._counted: Counter[str] = Counter(positions=0, served=0)

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        source_position = chunks.lists("source_position").values
        self._counted.update(positions=len(source_position), served=int((source_position >= 0).sum()))
        shapes = list(self._shapes(chunks))
        yield from shapes
        chunks = chunks.without(shapes)
        if len(chunks):
            yield from self._rows.check(chunks)
            yield from self._served(chunks)

    def counted(self) -> dict[str, int]:
        return dict(self._counted)

    def left_over(self) -> str | None:
        return None

    def _shapes(self, chunks: Chunks) -> Iterator[Problem]:
        yield from self._rows.shapes(chunks, self._reader.labels(chunks).lengths if ENCODE in chunks else None)
        served_C = chunks.lists("source_position").lengths
        yield chunks.problem("source_position is not one a position", served_C != chunks.lists("counts").lengths)
        wanted_C = chunks.lists("ids").lengths if self._logits else 0
        asked = "one for each id" if self._logits else "empty, as align.values asks"
        yield chunks.problem(f"logits are not {asked}", chunks.lists("logits").lengths != wanted_C)

    def _served(self, chunks: Chunks) -> Iterator[Problem]:
        """Check that positions that are served, and only these, say by which position of the source."""
        served, counts = chunks.lists("source_position"), chunks.lists("counts").values
        unserved_T = served.values < 0
        wrong_T = (~unserved_T & (counts == 0)) | (unserved_T & (counts > int(self._fallback)))
        yield chunks.problem("what serves a position and what it holds do not agree", served.any(wrong_T))
        if CAPTURE in chunks:
            first_C, kept_C = chunks.numbers("first", CAPTURE), chunks.lists("tail", CAPTURE).lengths
            low_T = np.repeat(first_C, served.lengths)
            high_T = low_T + np.repeat(kept_C, served.lengths)
            beyond_T = ~unserved_T & ((served.values < low_T) | (served.values >= high_T))
            yield chunks.problem("source_position is none that was captured", served.any(beyond_T))
        yield chunks.problem("source_position below -1", served.any(served.values < -1))
        if self._logits:
            logits = chunks.lists("logits")
            yield chunks.problem("logits are not finite", logits.any(~np.isfinite(logits.values)))


class Mapped:
    """A vocabulary map from `width` source ids to `size` target ids."""

    def __init__(self, width: int, size: int) -> None:
        self._width, self._size = width, size
        self._next = 0
        self._counted: Counter[str] = Counter({how.name.lower(): 0 for how in How})

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        ids, weights, hows = chunks.lists("target_ids"), chunks.lists("weights"), chunks.column("how").to_pylist()
        wanted_S = np.arange(self._next, self._next + len(chunks))
        self._next += len(chunks)
        yield chunks.problem("source ids are not 0, 1, 2, …", chunks.numbers("source_id") != wanted_S)
        yield chunks.problem(f"source ids beyond the {self._width} of the model's head", wanted_S >= self._width)
        yield chunks.problem(f"target_ids outside 0 to {self._size - 1}", ids.any(outside(ids.values, self._size)))
        unknown_S = np.array([how not in self._counted for how in hows])
        yield chunks.problem("how is no way that is known", unknown_S)
        self._counted.update(how for how in hows if how in self._counted)
        lengths = [chunks.problem("target_ids and weights differ in length", ids.lengths != weights.lengths)]
        yield from lengths
        chunks = chunks.without(lengths)
        if len(chunks):
            yield from self._rows(chunks)

    def counted(self) -> dict[str, int]:
        return {"source_tokens": self._next, **self._counted}

    def left_over(self) -> str | None:
        return None if self._next == self._width else f"it maps {self._next:,} of {self._width:,} source ids"

    def _rows(self, chunks: Chunks) -> Iterator[Problem]:
        ids, weights = chunks.lists("target_ids"), chunks.lists("weights")
        bad = ~np.isfinite(weights.values) | (weights.values < 0)
        yield chunks.problem("weights are not finite, or below 0", weights.any(bad))
        sums_S = row_sums(weights.offsets, weights.values.astype(np.float64))
        yield chunks.problem("weights do not add up to 1", (ids.lengths > 0) & ~(np.abs(sums_S - 1) <= SLACK))
        entries = np.sort((ids.chunk_of << 32) | (ids.values.astype(np.int64) & 0xFFFFFFFF))
        twice_S = np.zeros(len(chunks), np.bool_)
        twice_S[(entries[1:] >> 32)[np.diff(entries) == 0]] = True
        yield chunks.problem("a target id stands twice", twice_S)
        unmapped_S = np.array([how == "unmapped" for how in chunks.column("how").to_pylist()])
        yield chunks.problem("how and the number of target_ids do not agree", unmapped_S != (ids.lengths == 0))
        yield chunks.problem("distance below -1", chunks.numbers("distance") < -1)
        times_S = chunks.numbers("times")
        yield chunks.problem("times is not finite, or below 0", ~np.isfinite(times_S) | (times_S < 0))
