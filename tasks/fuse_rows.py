"""Writing for stage fuse: rows from flat arrays, in row groups of one size however they come."""

# legend: S sources, R rows, T positions

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.storage.offsets import list_offsets
from logitfuse.storage.schemas import FUSE, IDS
from logitfuse.storage.shards import ShardWriter

ROWS_PER_GROUP = 64


@dataclass(frozen=True)
class FusedRows:
    """R rows of a FUSE shard with T positions in all."""

    identity: Mapping[str, Any]  # doc_id, chunk, text_hash [R]
    splits: list[str]
    domains: list[str]
    offsets: NDArray[np.int64]  # [R+1] positions of each row
    inputs: NDArray[np.int32]  # [T]
    labels: NDArray[np.int32]  # [T]
    fused: Distributions  # [T]
    winner: NDArray[np.int32]  # [T]
    weights: NDArray[np.float64]  # [S, R]
    scores: NDArray[np.float64]  # [S, R], +inf for none
    held_back: NDArray[np.bool_]  # [T] a target was there, and not worth learning from

    def columns(self) -> dict[str, Any]:
        """Return the columns of the schema."""
        entries = self.fused.offsets[self.offsets]
        scores = np.where(np.isfinite(self.scores), self.scores, np.nan)
        per_position: dict[str, NDArray] = {
            "inputs": self.inputs,
            "labels": self.labels,
            "counts": self.fused.counts,
            "mass": self.fused.mass,
            "winner": self.winner,
        }
        return {
            **self.identity,
            "split": self.splits,
            "domain": self.domains,
            **{name: _lists(name, self.offsets, values) for name, values in per_position.items()},
            "ids": _lists("ids", entries, self.fused.ids),
            "logprobs": _lists("logprobs", entries, self.fused.logprobs),
            "weights": _per_source("weights", self.weights),
            "scores": _per_source("scores", scores),
        }


@contextmanager
def writing_fused(path: Path) -> Iterator[Callable[[FusedRows], None]]:
    """Yield a function that takes rows; the file's bytes do not depend on how many come at a time."""
    writer = ShardWriter(path, FUSE, {"stage": FUSE.stage, "version": str(FUSE.version)})
    pending: list[pa.RecordBatch] = []

    def flush() -> None:
        if pending:
            group = pa.concat_batches(pending)
            writer.write({name: group.column(name) for name in group.schema.names})
            pending.clear()

    def add(rows: FusedRows) -> None:
        batch = pa.RecordBatch.from_pydict(rows.columns(), schema=FUSE.arrow)
        start = 0
        while start < batch.num_rows:  # a group at a time: a long document is never copied whole
            part = batch.slice(start, ROWS_PER_GROUP - sum(waiting.num_rows for waiting in pending))
            pending.append(part)
            start += part.num_rows
            if sum(waiting.num_rows for waiting in pending) == ROWS_PER_GROUP:
                flush()
        # What waits is copied, so that it does not hold on to all the rows that came with it.
        pending[:] = [pa.concat_batches(pending)] if pending else []

    try:
        yield add
        flush()
    finally:
        writer.close()


def _lists(name: str, offsets: NDArray[np.int64], values: NDArray) -> pa.Array:
    kind = FUSE.arrow.field(name).type
    flat = values.astype(np.int32 if kind == IDS else np.float32, copy=False)
    return pa.ListArray.from_arrays(list_offsets(offsets, name), pa.array(flat), type=kind)


def _per_source(name: str, values_SR: NDArray[np.float64]) -> pa.Array:
    sources, rows = values_SR.shape
    return _lists(name, np.arange(rows + 1) * sources, values_SR.T.ravel())
