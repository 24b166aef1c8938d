"""What stage headroom reads: the validation chunks with their targets, and what the target model predicted itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.headroom import OwnPredictions, TokenClass, token_classes
from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels
from logitfuse.kernels.sparse import Sparse, rectangle
from logitfuse.storage.shards import Rows, rows_together, verified_path
from logitfuse.tasks.headroom_blocks import VALIDATION, Blocks, Targets
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

FUSED = "fused"
TARGETS = ["counts", "ids", "logprobs", "mass"]
Files = dict[str, tuple["Record", list[str]]]


@dataclass(frozen=True)
class Chunk:
    """T positions of validation text; `classes_ST` has a row per teacher."""

    domain: str
    doc_id: str
    labels_T: NDArray[np.int32]
    own: OwnPredictions
    classes_ST: NDArray[np.int8]
    fused: Targets | None  # None where packing into blocks left the document out
    teachers: list[str]
    alone: dict[str, Targets]  # without the target model itself


def shards_read(run: Run, shard: int) -> Files:
    """Return the records that are read of one shard, by name, with their columns."""
    target = run.target
    captured = ["counts", "ids", "logprobs", "tail", "gold_logprob"]
    files: Files = {
        "prepare": (run.prepared(shard), ["split", "domain"]),
        "encode": (run.record(Unit("encode", target.tokenizer_label, shard)), ["last", "ids", "ends"]),
        "capture": (run.record(Unit("capture", target.label, shard)), captured),
        FUSED: (run.record(Unit("fuse", None, shard)), ["split", "inputs", *TARGETS, "winner"]),
    }
    for label, source in run.teachers.items():
        files[f"encode/{label}"] = (run.record(Unit("encode", source.tokenizer_label, shard)), ["ends"])
        files[f"align/{label}"] = (run.record(Unit("align", label, shard)), ["source_position", *TARGETS])
    return files


def validation_chunks(run: Run, files: Files, split: str = VALIDATION) -> Iterator[Chunk]:
    """Yield the validation chunks of one shard, or another split's; packed blocks are cut back into them."""
    paths = {name: (verified_path(run.store, record), columns) for name, (record, columns) in files.items()}
    blocks = Blocks(paths.pop(FUSED), split) if run.recipe.fuse.granularity == "block" else None
    rows = (at for at in rows_together(paths) if at[0]["prepare"].value("split", at[1]) == split)
    for _, document in groupby(rows, key=lambda at: at[0]["prepare"].value("doc_id", at[1])):
        chunks = list(document)
        texts = [inputs_labels_positions(views["encode"], row, run) for views, row in chunks]
        start = blocks.find([inputs for inputs, _, _ in texts]) if blocks else None
        for (views, row), (inputs, labels, count) in zip(chunks, texts, strict=True):
            fused: Targets | None = None
            if blocks is None:
                fused = _targets(views[FUSED], row, views[FUSED].values("winner", row))
            elif start is not None:
                fused = blocks.take(start, start + count)
                start += len(inputs)
            yield _chunk(views, row, run, labels, fused)


def inputs_labels_positions(encoded: Rows, row: int, run: Run) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Return what blocks hold of a chunk, the labels of its positions, and their number.

    In a block every token has a position: of a chunk inside its document the last one has, too, which nothing serves.
    """
    ids, last = encoded.values("ids", row), encoded.value("last", row)
    target = run.target
    end = target.end_id if last else None
    inputs, labels = inputs_and_labels(ids, start=target.start_id, end=end, past_end=run.recipe.capture.past_end)
    return inputs if last else np.append(inputs, ids[-1:]), labels, len(labels)


def _chunk(views: dict[str, Rows], row: int, run: Run, labels_T: NDArray[np.int32], fused: Targets | None) -> Chunk:
    own = _own(views["capture"], row)
    count = min(len(labels_T), len(own.gold_T))  # the target's context may end before the text does
    alone = {
        label: _cut(_targets(views[f"align/{label}"], row, np.zeros(len(labels_T), np.int32)), count)
        for label in run.teachers
        if label != run.target.label
    }
    return Chunk(
        views["prepare"].value("domain", row),
        views["prepare"].value("doc_id", row),
        labels_T[:count],
        OwnPredictions(own.gold_T[:count], own.ids_TK[:count], own.probs_TK[:count]),
        _classes(views, row, run, count),
        None if fused is None else _cut(fused, count),
        list(run.teachers),
        alone,
    )


def _classes(views: dict[str, Rows], row: int, run: Run, count: int) -> NDArray[np.int8]:
    """Return each source's class of each target position, int8 [S, T]."""
    first = 0 if run.target.start_id is not None else 1
    target_next_T = _next_ends(views["encode"].values("ends", row))[first : first + count]
    found = []
    for label in run.teachers:
        source_T = views[f"align/{label}"].values("source_position", row)[:count].astype(np.int64)
        if label == run.target.label:
            found.append(np.where(source_T >= 0, np.int8(TokenClass.OWN), np.int8(TokenClass.UNSERVED)))
            continue
        ends = views[f"encode/{label}"].values("ends", row)
        found.append(token_classes(_next_ends(ends), target_next_T, source_T))
    return np.stack(found)


def _next_ends(ends: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the byte at which the token after each position ends; -1 past the end token, after which none is known."""
    return np.append(consumed_bytes(ends, 1, len(ends) + 1), -1)


def _own(captured: Rows, row: int) -> OwnPredictions:
    tail_T = captured.values("tail", row).astype(np.float64)
    counts_T = captured.values("counts", row)
    probs_TK = rectangle(counts_T, np.exp(captured.values("logprobs", row).astype(np.float64)), 0.0)
    whole_T = probs_TK.sum(axis=1) + tail_T  # rounding moved it off 1 a little
    probs_TK /= np.where(whole_T > 0, whole_T, 1.0)[:, None]
    gold_T = captured.values("gold_logprob", row).astype(np.float64)
    return OwnPredictions(gold_T, rectangle(counts_T, captured.values("ids", row), -1), probs_TK)


def _targets(view: Rows, row: int, winner_T: NDArray[np.int32]) -> Targets:
    rows = Sparse.from_counts(*(view.values(column, row) for column in ("counts", "ids", "logprobs")))
    return Targets(rows, view.values("mass", row), winner_T)


def _cut(targets: Targets, count: int) -> Targets:
    return Targets(targets.rows.take(0, count), targets.mass_T[:count], targets.winner_T[:count])
