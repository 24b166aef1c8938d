"""What must hold of fused rows: whole documents chunk by chunk, or packed blocks of them."""

# legend: C rows, T positions, S sources

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.tasks.fuse_blocks import Block
from logitfuse.tasks.verify.chunks import Chunks, Lists, Problem
from logitfuse.tasks.verify.reader import ENCODE, Reader
from logitfuse.tasks.verify.sparse import SparseRows
from logitfuse.tasks.verify.text import PREPARE, outside, same_words

PER_POSITION = ("inputs", "labels", "winner")


class Fused:
    """The target's training rows, mixed from `sources` sources; `reader` is None where rows are packed blocks."""

    def __init__(self, rows: SparseRows, sources: int, reader: Reader | None) -> None:
        self._rows, self._sources, self._reader = rows, sources, reader
        self._counted: Counter[str] = Counter(positions=0, served=0)

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        counts = chunks.lists("counts").values
        self._counted.update(positions=len(counts), served=int((counts > 0).sum()))
        passages = self._reader.read(chunks) if self._reader and ENCODE in chunks else None
        shapes = list(self._shapes(chunks, passages))
        yield from shapes
        chunks = chunks.without(shapes)
        if not len(chunks):
            return
        yield from self._rows.check(chunks)
        yield from self._sources_used(chunks)
        for name in ("inputs", "labels"):
            values = chunks.lists(name)
            bad = outside(values.values, self._rows.size) & ((values.values != NO_LABEL) | (name == "inputs"))
            yield chunks.problem(f"{name} outside 0 to {self._rows.size - 1}", values.any(bad))
        if self._reader and ENCODE in chunks:
            yield from self._text(chunks, self._reader)
        if self._reader and PREPARE in chunks:
            yield from same_words(chunks)

    def counted(self) -> dict[str, int]:
        return dict(self._counted)

    def left_over(self) -> str | None:
        return None

    def _shapes(self, chunks: Chunks, passages: tuple[Lists, Lists] | None) -> Iterator[Problem]:
        yield from self._rows.shapes(chunks, passages[1].lengths if passages else None)
        positions_C = chunks.lists("counts").lengths
        for name in PER_POSITION:
            yield chunks.problem(f"{name} is not one a position", chunks.lists(name).lengths != positions_C)
        for name in ("weights", "scores"):
            wrong_C = chunks.lists(name).lengths != self._sources
            yield chunks.problem(f"{name} are not one for each of the {self._sources} sources", wrong_C)

    def _sources_used(self, chunks: Chunks) -> Iterator[Problem]:
        winner, counts = chunks.lists("winner"), chunks.lists("counts").values
        wrong_T = (winner.values < -1) | (winner.values >= self._sources) | ((winner.values < 0) & (counts > 0))
        yield chunks.problem("winner is none of the sources", winner.any(wrong_T))
        weights, scores = chunks.lists("weights"), chunks.lists("scores")
        bad = ~((weights.values >= 0) & (weights.values <= 1 + 1e-2))  # shares of bfloat16 may add up to more than 1
        yield chunks.problem("weights outside 0 to 1", weights.any(bad))
        yield chunks.problem("scores are infinite", scores.any(np.isinf(scores.values)))

    def _text(self, chunks: Chunks, reader: Reader) -> Iterator[Problem]:
        for name, wanted in zip(("inputs", "labels"), reader.read(chunks), strict=True):
            other_T = chunks.lists(name).values != wanted.values
            yield chunks.problem(f"{name} are not the tokens of its text", wanted.any(other_T))


class Blocks(Fused):
    """Packed blocks; `wanted` are those that packing the documents again gives, None where that cannot be done."""

    def __init__(self, rows: SparseRows, sources: int, part: str, wanted: Iterator[Block] | None) -> None:
        super().__init__(rows, sources, None)
        self._part, self._wanted = part, wanted

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        yield from super().check(chunks)
        if self._wanted is None:
            return
        blocks = [next(self._wanted, None) for _ in range(len(chunks))]
        wrong_C = np.array([not self._same(chunks, row, block) for row, block in enumerate(blocks)])
        yield chunks.problem("it is not the block that packing its documents gives", wrong_C)

    def left_over(self) -> str | None:
        if self._wanted is None or next(self._wanted, None) is None:
            return None
        return "packing its documents gives more blocks"

    def _same(self, chunks: Chunks, row: int, block: Block | None) -> bool:
        if block is None:
            return False
        plain = {name: chunks.column(name)[row].as_py() for name in ("doc_id", "text_hash", "split", "domain")}
        name = f"{self._part}/{block.split}/{block.number:05d}"
        wanted = {"doc_id": name, "text_hash": block.text_hash, "split": block.split, "domain": block.domain}
        return plain == wanted and all(
            np.array_equal(_row(chunks.lists(column), row), values)
            for column, values in (("inputs", block.inputs), ("labels", block.labels))
        )


def _row(lists: Lists, row: int) -> NDArray[np.int32]:
    return lists.values[lists.offsets[row] : lists.offsets[row + 1]]
