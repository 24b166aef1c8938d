"""Finding a document in a run's shards: by its id, by its text, or one that is good to begin with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from logitfuse.storage.errors import BadInput, ShardMissing
from logitfuse.storage.row_spans import read_span
from logitfuse.storage.shards import Rows, read_batches, verified_path
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

Names = tuple[str, str, str]
NAMES = ("doc_id", "domain", "split")
ROWS = 16  # chunks of text in memory at a time
LOOKED_AT = 200  # documents among which the first to be shown is chosen
READABLE = range(40, 600)  # tokens of a document that can be taken in


@dataclass(frozen=True)
class Place:
    """Where a document's chunks lie: rows `first` to `first + chunks` of every shard of this number."""

    shard: int
    doc_id: str
    domain: str
    split: str
    first: int
    chunks: int


@dataclass(frozen=True)
class Hit:
    """A document that holds a text, and the byte of the document at which it first does."""

    place: Place
    byte: int


def fused_shards(run: Run) -> list[int]:
    """Return the numbers of the shards that are fused; raises `ShardMissing` where none is, or nothing is prepared."""
    found = []
    for shard in run.shard_numbers:
        try:
            run.record(Unit("fuse", None, shard))
        except ShardMissing:
            continue
        found.append(shard)
    if not found:
        raise ShardMissing(
            "nothing is fused yet, so there is no target to look at. Run: logitfuse run RECIPE --stop-after fuse"
        )
    return found


def places(run: Run, shard: int) -> Iterator[Place]:
    """Yield a shard's documents in order; only their names are read."""
    path = verified_path(run.store, run.prepared(shard))
    names: Names | None = None
    first = row = 0
    for batch in read_batches(path, list(NAMES), 1024):
        for found in zip(*(batch.column(name).to_pylist() for name in NAMES), strict=True):
            if names is not None and names[0] != found[0]:
                yield Place(shard, *names, first, row - first)
                first = row
            names, row = found, row + 1
    if names is not None:
        yield Place(shard, *names, first, row - first)


def find_document(run: Run, doc_id: str, shards: Sequence[int]) -> Place:
    """Return where a document is; raises `BadInput` with some ids that there are."""
    for shard in shards:
        for place in places(run, shard):
            if place.doc_id == doc_id:
                return place
    some = ", ".join(repr(place.doc_id) for place in islice(places(run, shards[0]), 3))
    raise BadInput(f"--doc {doc_id}: no document that is fused has this id. Ids look like {some}.")


def first_document(run: Run, shards: Sequence[int]) -> Place:
    """Return a document to begin with: one that can be taken in, and of which sources other than the target tell most.

    It is chosen among the first documents of the first shard that is fused.
    """
    found = list(islice(places(run, shards[0]), LOOKED_AT))
    if run.recipe.fuse.granularity == "block":
        unit, column = Unit("encode", run.target.tokenizer_label, shards[0]), "ids"
    else:
        unit, column = Unit("fuse", None, shards[0]), "winner"
    path = verified_path(run.store, run.record(unit))
    labels = list(run.teachers)
    own = labels.index(run.target.label) if run.target.label in labels else -1

    def told(place: Place) -> tuple[bool, bool, float]:
        rows = Rows(read_span({column: (path, [column])}, place.first, place.first + place.chunks)[column])
        values = np.concatenate([rows.values(column, row) for row in range(len(rows))])
        others = (values >= 0) & (values != own)
        return (
            len(values) in READABLE,
            len(values) > 0,
            float(others.mean()) if len(others) and column == "winner" else 0.0,
        )

    return max(found, key=told)  # the first of equals


def search(run: Run, text: str, shards: Sequence[int]) -> Iterator[Hit]:
    """Yield the documents that hold a text, whatever its case, also across the borders of chunks.

    A few chunks are in memory at a time.
    """
    if not text.strip():
        raise BadInput("--search: there is nothing to look for. Give some text.")
    pattern = re.compile(re.escape(text), re.IGNORECASE)  # of as many characters as the text, whatever its case
    for shard in shards:
        yield from _hits(shard, verified_path(run.store, run.prepared(shard)), pattern, len(text) - 1)


def _hits(shard: int, path: Path, pattern: re.Pattern[str], overlap: int) -> Iterator[Hit]:
    names: Names | None = None
    before, byte, first, row = "", None, 0, 0  # the end of the chunk before, where the document has the text
    for batch in read_batches(path, [*NAMES, "text", "byte_start"], ROWS):
        columns = [batch.column(name).to_pylist() for name in (*NAMES, "text", "byte_start")]
        for doc_id, domain, split, text, begin in zip(*columns, strict=True):
            if names is not None and names[0] != doc_id:
                if byte is not None:
                    yield Hit(Place(shard, *names, first, row - first), byte)
                before, byte, first = "", None, row
            if byte is None and (match := pattern.search(before + text)):
                byte = begin - len(before.encode()) + len((before + text)[: match.start()].encode())
            before = (before + text)[-overlap:] if overlap else ""
            names, row = (doc_id, domain, split), row + 1
    if names is not None and byte is not None:
        yield Hit(Place(shard, *names, first, row - first), byte)
