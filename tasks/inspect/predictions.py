"""What a model predicts at the positions of some chunks: from the store, or computed on these chunks alone."""

# legend: C chunks, P positions, N kept entries

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from logitfuse.kernels.headroom import OwnPredictions
from logitfuse.kernels.keep import Keep
from logitfuse.kernels.positions import NO_LABEL, inputs_and_labels
from logitfuse.kernels.sparse import rectangle
from logitfuse.tasks.fuse_documents import flat
from logitfuse.tasks.models.causal import padded

if TYPE_CHECKING:
    from logitfuse.tasks.models.causal import CausalModel
    from logitfuse.tasks.models.source import Source

Chunk = tuple[NDArray[np.int32], bool]  # text tokens, and whether an end token follows
HEAD_POSITIONS = 128  # whose logits exist at a time


@dataclass(frozen=True, eq=False)
class Predictions:
    """Position p of chunk c is row `offsets[c] + p - first[c]`; row r keeps `entries[r]:entries[r+1]`, best first."""

    first: NDArray[np.int32]  # [C] number of the first position that has a prediction
    offsets: NDArray[np.int64]  # [C+1]
    entries: NDArray[np.int64]  # [P+1]
    ids: NDArray[np.int32]  # [N]
    logprobs: NDArray[np.float32]  # [N]
    draws: NDArray[np.int32]  # [N] how often each was drawn; empty where nothing is
    tail: NDArray[np.float32]  # [P] probability outside
    gold: NDArray[np.float32]  # [P] log-probability of the token that follows, NaN where none does
    rank: NDArray[np.int32]  # [P] of that token, 0 is the likeliest

    def row(self, chunk: int, position: int) -> int | None:
        """Return the row of a position, None where there is no prediction."""
        row = int(self.offsets[chunk]) + position - int(self.first[chunk])
        return row if self.offsets[chunk] <= row < self.offsets[chunk + 1] else None

    def probabilities(self, row: int) -> NDArray[np.float64]:
        """Return the kept probabilities of a row, a sum of 1 with its tail, as stage align reads them."""
        found = np.exp(self.logprobs[self.entries[row] : self.entries[row + 1]].astype(np.float64))
        whole = found.sum() + float(self.tail[row])
        return found / (whole if whole > 0 else 1.0)

    def own(self, chunk: int, count: int) -> OwnPredictions:
        """Return the first `count` positions of a chunk as stage headroom reads the target's own; NaN past the last."""
        rows = np.arange(self.offsets[chunk], min(self.offsets[chunk] + count, self.offsets[chunk + 1]))
        counts = np.zeros(count, np.int64)
        counts[: len(rows)] = np.diff(self.entries)[rows]
        kept = [self.probabilities(row) for row in rows.tolist()]
        ids = [self.ids[self.entries[row] : self.entries[row + 1]] for row in rows.tolist()]
        gold = np.full(count, np.nan)
        gold[: len(rows)] = self.gold[rows]
        return OwnPredictions(
            gold,
            rectangle(counts, np.concatenate([np.zeros(0, np.int32), *ids]), -1),
            rectangle(counts, np.concatenate([np.zeros(0), *kept]), 0.0),
        )


def captured(batch: pa.RecordBatch) -> Predictions:
    """Return what a capture shard holds of some chunks."""
    columns = {name: flat(batch, name)[1] for name in ("ids", "logprobs", "draws", "tail", "gold_logprob", "gold_rank")}
    offsets, counts = flat(batch, "counts")
    return Predictions(
        batch.column("first").to_numpy(),
        offsets,
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        columns["ids"],
        columns["logprobs"],
        columns["draws"],
        columns["tail"],
        columns["gold_logprob"],
        columns["gold_rank"],
    )


def computed(
    model: CausalModel,
    source: Source,
    chunks: Sequence[tuple[NDArray[np.int32], bool] | None],
    k: int,
    longest: int | None,
) -> Predictions:
    """Return what a model predicts on chunks, each read alone and cut to its context; nothing for those that are None.

    `longest`: `capture.max_length`.
    """
    parts = [_of_chunk(model, source, chunk, k, longest) for chunk in chunks]
    lengths = np.array([len(part["tail"]) for part in parts], np.int64)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    first = np.full(len(parts), 0 if source.start_id is not None else 1, np.int32)
    counts = joined.pop("counts").astype(np.int64)
    return Predictions(first, _ends(lengths), _ends(counts), draws=np.zeros(0, np.int32), **joined)


def _ends(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _of_chunk(
    model: CausalModel, source: Source, chunk: Chunk | None, k: int, longest: int | None
) -> dict[str, NDArray]:
    ids, last = chunk or (np.zeros(0, np.int32), False)
    inputs, labels = inputs_and_labels(ids, start=source.start_id, end=source.end_id if last else None)
    kept = min(len(inputs), source.context, longest or len(inputs))
    inputs, labels = inputs[:kept], labels[:kept]
    if not kept:
        nothing = np.zeros(0, np.float32)
        integers = dict.fromkeys(("counts", "ids", "rank"), np.zeros(0, np.int32))
        return {**integers, "logprobs": nothing, "tail": nothing, "gold": nothing}
    hidden_PH = model.hidden(*padded([inputs]))[0]
    gold_P = torch.from_numpy(labels.astype(np.int64)).clamp_min(0).to(hidden_PH.device)
    spans = [slice(start, start + HEAD_POSITIONS) for start in range(0, kept, HEAD_POSITIONS)]
    found = [model.kept(hidden_PH[span], gold_P[span], Keep(k=k)) for span in spans]
    whole = {name: np.concatenate([getattr(part, name).cpu().numpy() for part in found]) for name in COLUMNS}
    width = whole["ids_TK"].shape[1]
    return {
        "counts": np.full(kept, width, np.int32),
        "ids": whole["ids_TK"].ravel(),
        "logprobs": whole["logprobs_TK"].ravel(),
        "tail": whole["tail_T"],
        "gold": np.where(labels == NO_LABEL, np.float32(np.nan), whole["gold_logprob_T"]),
        "rank": whole["gold_rank_T"],
    }


COLUMNS = ("ids_TK", "logprobs_TK", "tail_T", "gold_logprob_T", "gold_rank_T")
