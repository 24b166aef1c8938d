"""Reading for stage fuse: whole documents, many at a time, as flat arrays."""

# legend: D documents, C chunks, T target positions, S sources

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.kernels.fusion.bfloat16 import own_where_empty, softmax_rows
from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.evidence import Steps, causal_steps
from logitfuse.kernels.fusion.passages import Passages, passages
from logitfuse.kernels.scores import ScoredChunks, SharedSteps, scored_chunks, shared_steps
from logitfuse.storage.errors import ShardMismatch
from logitfuse.storage.shards import read_together

if TYPE_CHECKING:
    from logitfuse.tasks.models.source import Source

TARGET = ["last", "ids", "ends"]
PREPARED = ["split", "domain"]
CAPTURED = ["first", "gold_logprob"]


@dataclass(frozen=True)
class Reading:
    """How a shard is read: the target's tokens around the text, the sources' labels, and what align keeps.

    `shuffled`: the sources' distributions are those on other documents (fuse_shuffled.py).
    """

    target: Source
    labels: tuple[str, ...]
    past_end: bool
    logits: bool
    temperature: float
    shuffled: bool = False

    @property
    def own(self) -> int | None:
        """Which source is the target model itself."""
        return self.labels.index(self.target.label) if self.target.label in self.labels else None

    @property
    def aligned(self) -> list[str]:
        return ["counts", "ids", "logits"] if self.logits else ["counts", "ids", "logprobs", "mass"]


@dataclass(frozen=True)
class Documents:
    """D whole documents as C chunks and T positions after one another."""

    identity: dict[str, pa.Array]  # [C] each
    splits: list[str]  # [C]
    domains: list[str]  # [C]
    documents: NDArray[np.int64]  # [D+1] first chunk of each
    last: NDArray[np.bool_]  # [C]
    text: ScoredChunks  # the target's tokens and where they end
    text_ids: NDArray[np.int32]
    passages: Passages
    sources: list[Distributions]
    scored: list[ScoredChunks]  # text tokens only, for scores over identical bytes
    gold: list[tuple[NDArray[np.int64], NDArray[np.float32]]]  # offsets [C+1] and all the source captured

    @property
    def position_offsets(self) -> NDArray[np.int64]:
        """First position of each document, [D+1]."""
        return self.passages.offsets[self.documents]

    @cached_property
    def shared(self) -> SharedSteps:
        """What lies between byte boundaries that all sources share."""
        return shared_steps(self.scored)

    @cached_property
    def steps(self) -> Steps:
        """What is known of the sources at each position from the text before it."""
        begins_C = np.zeros(len(self.last), np.bool_)
        begins_C[self.documents[:-1]] = True
        return causal_steps(self.shared, self.passages.offsets, self.passages.consumed, begins_C)


def read_documents(files: Mapping[str, tuple[Path, Sequence[str]]], how: Reading, rows: int) -> Iterator[Documents]:
    """Yield all documents of a shard, those that `rows` rows complete at a time.

    `files` names "prepare", "encode" (the target's), and for each label "encode/", "capture/" and "align/".
    """
    waiting: list[dict[str, pa.RecordBatch]] = []
    for batches in read_together(files, rows):
        ids = batches["prepare"].column("doc_id").to_pylist()
        cut = ids.index(ids[-1])  # the last document may go on in the next batch
        if waiting and waiting[-1]["prepare"].column("doc_id")[-1].as_py() != ids[0]:
            yield whole_documents(waiting, how)
            waiting = []
        if cut:
            yield whole_documents([*waiting, {name: batch[:cut] for name, batch in batches.items()}], how)
            waiting = []
        waiting.append({name: batch[cut:] for name, batch in batches.items()})
    if waiting:
        yield whole_documents(waiting, how)


def whole_documents(parts: list[dict[str, pa.RecordBatch]], how: Reading) -> Documents:
    """Return the documents whose chunks these batches hold, one after another; the parts are used up."""
    whole = {name: _joined([part.pop(name) for part in parts]) for name in list(parts[0])}
    prepared, encoded = whole["prepare"], whole["encode"]
    doc_ids = prepared.column("doc_id").to_pylist()
    begins = [c for c, doc_id in enumerate(doc_ids) if c == 0 or doc_id != doc_ids[c - 1]]
    last = encoded.column("last").to_numpy(zero_copy_only=False)
    offsets, ids = flat(encoded, "ids")
    _, ends = flat(encoded, "ends")
    text = ScoredChunks(offsets, np.zeros(len(last), np.int64), ends.astype(np.int64), np.zeros(len(ends)))
    found = passages(offsets, ids, ends, last, start=how.target.start_id, end=how.target.end_id, past_end=how.past_end)
    sources = [_aligned(whole[f"align/{label}"], label, found, how) for label in how.labels]
    if how.logits and how.own is not None:
        sources = [own_where_empty(source, sources[how.own]) for source in sources]
    gold = [flat(whole[f"capture/{label}"], "gold_logprob") for label in how.labels]
    return Documents(
        {name: prepared.column(name) for name in ("doc_id", "chunk", "text_hash")},
        prepared.column("split").to_pylist(),
        prepared.column("domain").to_pylist(),
        np.array([*begins, len(doc_ids)], np.int64),
        last,
        text,
        ids,
        found,
        sources,
        [_scored(whole, label, *of) for label, of in zip(how.labels, gold, strict=True)],
        gold,
    )


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Put batches after one another; the parts are let go of as soon as they are copied, for a document may be long."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _scored(
    whole: dict[str, pa.RecordBatch], label: str, gold_offsets: NDArray[np.int64], gold: NDArray[np.float32]
) -> ScoredChunks:
    offsets, ends = flat(whole[f"encode/{label}"], "ends")
    first = whole[f"capture/{label}"].column("first").to_numpy()
    return scored_chunks(ends, offsets, gold, gold_offsets, first)


def _aligned(batch: pa.RecordBatch, label: str, found: Passages, how: Reading) -> Distributions:
    offsets, counts = flat(batch, "counts")
    values = {name: flat(batch, name)[1] for name in how.aligned[1:]}
    if not np.array_equal(offsets, found.offsets) or len({counts.sum(), *map(len, list(values.values())[:2])}) > 1:
        raise ShardMismatch(
            f"align/{label}: near document {batch.column('doc_id')[0].as_py()!r} it does not hold what this run's "
            f"settings ask for ({', '.join(how.aligned)} at {len(found.inputs)} positions). Redo stage 'align' for it."
        )
    if how.logits:
        return softmax_rows(counts, values["ids"], values["logits"], how.temperature)
    ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return Distributions(ends, values["ids"], values["logprobs"], values["mass"].astype(np.float64))


def flat(batch: pa.RecordBatch, column: str) -> tuple[NDArray[np.int64], NDArray]:
    """Return a list column as (offsets [C+1], all its values), without a copy of the values."""
    array = batch.column(column)
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
