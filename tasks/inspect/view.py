"""A stretch of one document with all that the stages say about it, gathered once; `position.py` explains it."""

# legend: C chunks of the stretch, L their text tokens, T their target positions, S sources

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.passages import Passages, passages
from logitfuse.storage.errors import ShardMismatch
from logitfuse.storage.row_spans import read_span
from logitfuse.tasks.aligner import Becomes
from logitfuse.tasks.fuse_documents import flat
from logitfuse.tasks.inspect.documents import Place
from logitfuse.tasks.inspect.judgement import Judgement, judged
from logitfuse.tasks.inspect.packed import taught_blocks
from logitfuse.tasks.inspect.predictions import Chunk, Predictions, captured
from logitfuse.tasks.inspect.reading import Maps, ShardFiles, Taught, taught_rows

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run


@dataclass(frozen=True)
class Numbering:
    """How a document's tokens are counted: its text tokens, and the end token where it has one; chunk by chunk."""

    begins: NDArray[np.int64]  # [chunks+1] number of each chunk's first token
    bytes: NDArray[np.int64]  # [chunks] byte of the document at which each chunk begins

    @property
    def tokens(self) -> int:
        return int(self.begins[-1])

    def chunk_of(self, number: int) -> int:
        """Return the chunk that a token is in."""
        return int(np.searchsorted(self.begins, number, side="right")) - 1


@dataclass(frozen=True)
class Encoded:
    """Chunks as one model writes them."""

    offsets: NDArray[np.int64]  # [C+1]
    ids: NDArray[np.int32]
    ends: NDArray[np.int32]

    def of(self, chunk: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return a chunk's ids and the bytes at which they end."""
        span = slice(self.offsets[chunk], self.offsets[chunk + 1])
        return self.ids[span], self.ends[span]


@dataclass(frozen=True, eq=False)
class OfSource:
    """What one source has to do with the stretch."""

    encoded: Encoded
    captured: Predictions
    position_T: NDArray[np.int32]  # of the source, that serves each target position; -1 for none
    aligned: Distributions
    becomes: Becomes | None
    rows_of: Mapping[int, int] = field(default_factory=dict)  # target position → its place among those served


@dataclass(eq=False)
class View:
    """Tokens `begin` to `end` of a document, in its chunks from `first_chunk` on."""

    run: Run
    place: Place
    numbering: Numbering
    first_chunk: int
    begin: int
    end: int
    texts: list[bytes]  # [C]
    target: Encoded
    closed: NDArray[np.bool_]  # [C] an end token follows the chunk
    positions: Passages
    sources: dict[str, OfSource]
    taught: Taught
    judged: Judgement | None  # over positions of the stretch
    maps: Maps
    before: Predictions | None = None
    after: Predictions | None = None
    pairs: dict[str, Predictions] = field(default_factory=dict)  # of the students that learned from one source each
    cautions: list[str] = field(default_factory=list)

    @property
    def start(self) -> int:
        """The first position of a chunk: 0 with a start token."""
        return 0 if self.run.target.start_id is not None else 1

    def locate(self, number: int) -> tuple[int, int]:
        """Return the chunk of the stretch that a token of the document is in, and its place there."""
        chunk = self.numbering.chunk_of(number)
        return chunk - self.first_chunk, number - int(self.numbering.begins[chunk])

    def position(self, number: int) -> int | None:
        """Return the target position of the stretch that predicts a token, None where none does."""
        chunk, token = self.locate(number)
        found = int(self.positions.offsets[chunk]) + token - self.start
        return found if token >= self.start and found < self.positions.offsets[chunk + 1] else None


def numbering(run: Run, files: ShardFiles, place: Place) -> Numbering:
    """Count the tokens of a document."""
    found = read_span(
        {"encode": (files.path("encode"), ["last", "ids"]), "prepare": (files.path("prepare"), ["byte_start"])},
        place.first,
        place.first + place.chunks,
    )
    lengths = np.diff(flat(found["encode"], "ids")[0])
    return Numbering(
        np.concatenate([[0], np.cumsum(lengths + _closed(run, found["encode"], lengths))]).astype(np.int64),
        found["prepare"].column("byte_start").to_numpy(),
    )


def token_at(files: ShardFiles, place: Place, counted: Numbering, byte: int) -> int:
    """Return the number of the token that a byte of the document is in."""
    chunk = int(np.searchsorted(counted.bytes, byte, side="right")) - 1
    row = place.first + chunk
    ends = flat(read_span({"encode": (files.path("encode"), ["ends"])}, row, row + 1)["encode"], "ends")[1]
    beyond = np.flatnonzero(ends > byte - counted.bytes[chunk])
    return int(counted.begins[chunk]) + (int(beyond[0]) if len(beyond) else max(len(ends) - 1, 0))


def gather(
    run: Run, files: ShardFiles, maps: Maps, place: Place, counted: Numbering, around: int | None, most: int
) -> View:
    """Read a stretch of at most `most` tokens around one, or from the document's beginning."""
    begin = max(0, min((around or 0) - most // 2, counted.tokens - most))
    end = min(begin + most, counted.tokens)
    first, stop = counted.chunk_of(begin), counted.chunk_of(max(end - 1, begin)) + 1
    names = ["prepare", "encode", *(f"{stage}/{label}" for label in run.teachers for stage in STAGES)]
    packed = run.recipe.fuse.granularity == "block"
    rows = files.rows([*names, *([] if packed else ["fuse"])], place.first + first, place.first + stop)
    encoded = _encoded(rows["encode"])
    last = rows["encode"].column("last").to_numpy(zero_copy_only=False)
    found = passages(
        encoded.offsets, encoded.ids, encoded.ends, last, start=run.target.start_id, end=run.target.end_id,
        past_end=run.recipe.capture.past_end,
    )  # fmt: skip
    taught = taught_blocks(run, files, place, range(first, stop)) if packed else taught_rows(rows["fuse"])
    if len(taught.winner_T) != len(found.inputs):
        raise ShardMismatch(
            f"fuse/part-{place.shard:05d}: it has {len(taught.winner_T)} positions where document {place.doc_id!r} has "
            f"{len(found.inputs)}. Redo stage 'fuse' for it."
        )
    return View(
        run, place, counted, first, begin, end,
        [text.encode() for text in rows["prepare"].column("text").to_pylist()],
        encoded, _closed(run, rows["encode"], np.diff(encoded.offsets)), found,
        {label: _source(maps, run, label, rows) for label in run.teachers},
        taught, _judged(run, files, place, range(first, stop), taught), maps,
    )  # fmt: skip


STAGES = ("encode", "capture", "align")


def _source(maps: Maps, run: Run, label: str, rows: Mapping[str, pa.RecordBatch]) -> OfSource:
    aligned = rows[f"align/{label}"]
    counts, ids, logprobs, mass = (flat(aligned, name)[1] for name in ("counts", "ids", "logprobs", "mass"))
    entries = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    becomes = maps.becomes(run.teachers[label], rows)
    return OfSource(
        _encoded(rows[f"encode/{label}"]),
        captured(rows[f"capture/{label}"]),
        flat(aligned, "source_position")[1],
        Distributions(entries, ids, logprobs, mass.astype(np.float64)),
        becomes,
        {int(t): n for n, t in enumerate(becomes.served)} if becomes else {},
    )


def _encoded(batch: pa.RecordBatch) -> Encoded:
    offsets, ids = flat(batch, "ids")
    return Encoded(offsets, ids, flat(batch, "ends")[1])


def _closed(run: Run, encoded: pa.RecordBatch, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    last = encoded.column("last").to_numpy(zero_copy_only=False)
    return last & (lengths > 0) & (run.target.end_id is not None)


def _judged(run: Run, files: ShardFiles, place: Place, chunks: range, taught: Taught) -> Judgement | None:
    """Return what the rule decides in some chunks of a document; the whole document is looked at for that."""
    document = files.documents(place)
    whole = judged(run, place.shard, document)
    if whole is None:
        return None
    offsets = document.passages.offsets
    span = slice(int(offsets[chunks.start]), int(offsets[chunks.stop]))
    return Judgement(
        whole.targets.take(span.start, span.stop), whole.winner_T[span], whole.weights_ST[:, span],
        whole.scores_ST[:, span], whole.held_back_T[span],
    )  # fmt: skip


def agrees(taught: Taught, found: Judgement) -> bool:
    """Say whether the store holds what the rule gives: who counts most, and the targets themselves."""
    stored, wanted = taught.targets, found.targets
    return bool(
        np.array_equal(taught.winner_T, found.winner_T)
        and np.array_equal(stored.offsets, wanted.offsets)
        and np.array_equal(stored.ids, wanted.ids)
        and np.array_equal(stored.logprobs, wanted.logprobs)
    )


def chunks_of(view: View, numbers: Sequence[int]) -> list[Chunk | None]:
    """Return for each chunk of the stretch its ids and whether it is closed, None where no such token is in it."""
    wanted = {view.locate(number)[0] for number in numbers}
    return [
        (view.target.of(chunk)[0], bool(view.closed[chunk])) if chunk in wanted else None
        for chunk in range(len(view.texts))
    ]
