"""The fused targets of a document that was packed into blocks with others, found there again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions, joined
from logitfuse.kernels.sparse import Sparse
from logitfuse.storage.shards import Rows, read_batches, rows_together
from logitfuse.tasks.headroom_blocks import Blocks, Targets
from logitfuse.tasks.headroom_chunks import inputs_labels_positions
from logitfuse.tasks.inspect.reading import Taught

if TYPE_CHECKING:
    from logitfuse.tasks.inspect.documents import Place
    from logitfuse.tasks.inspect.reading import ShardFiles
    from logitfuse.tasks.run import Run

PACKED = ["split", "inputs", "counts", "ids", "logprobs", "mass", "winner"]


def taught_blocks(run: Run, files: ShardFiles, place: Place, chunks: range) -> Taught:
    """Return the fused targets of some chunks of a document; where packing left it out, nothing is taught.

    Packing puts the documents of a split after one another, so all before this one are followed, and the targets of
    the shard's split are in memory.
    """
    blocks = Blocks((files.path("fuse"), PACKED), place.split)
    start, lengths = _found(run, files, place, blocks)
    positions = [count for _, count in lengths]
    begins = np.cumsum([0, *(read for read, _ in lengths)])
    kept = [(int(begins[c]) + (start or 0), positions[c]) for c in chunks]
    if start is None:
        return _nothing(len(run.teachers), sum(count for _, count in kept))
    taken = [blocks.take(at, at + count) for at, count in kept]
    at_T = np.concatenate([np.arange(at, at + count) for at, count in kept])
    weights_ST, scores_ST = _of_blocks(files, place.split, at_T // run.recipe.fuse.block_tokens)
    targets = joined([_distributions(part) for part in taken])
    return Taught(targets, np.concatenate([part.winner_T for part in taken]), weights_ST, scores_ST)


def _found(run: Run, files: ShardFiles, place: Place, blocks: Blocks) -> tuple[int | None, list[tuple[int, int]]]:
    """Return where a document begins in its split's blocks, and for each chunk how much it takes and its positions."""
    rows = rows_together({
        "prepare": (files.path("prepare"), ["split"]), "encode": (files.path("encode"), ["last", "ids", "ends"]),
    })  # fmt: skip
    same = (at for at in rows if at[0]["prepare"].value("split", at[1]) == place.split)
    for doc_id, document in groupby(same, key=lambda at: at[0]["prepare"].value("doc_id", at[1])):
        texts = [inputs_labels_positions(views["encode"], row, run) for views, row in document]
        start = blocks.find([inputs for inputs, _, _ in texts])
        if doc_id == place.doc_id:
            return start, [(len(inputs), count) for inputs, _, count in texts]
    raise AssertionError("the document is one of this shard and split")


def _of_blocks(files: ShardFiles, split: str, block_T: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Return weights and scores [S, T] of the packed blocks that positions lie in."""
    found = list(_weights_and_scores(files, split))
    weights, scores = (np.stack(column, axis=1) for column in zip(*found, strict=True))
    return weights[:, block_T], scores[:, block_T]


def _weights_and_scores(files: ShardFiles, split: str) -> Iterator[tuple[NDArray, NDArray]]:
    for batch in read_batches(files.path("fuse"), ["split", "weights", "scores"]):
        rows = Rows(batch)
        for row in range(len(rows)):
            if rows.value("split", row) == split:
                yield rows.values("weights", row), rows.values("scores", row)


def _distributions(part: Targets) -> Distributions:
    rows: Sparse = part.rows
    return Distributions(rows.offsets, rows.ids, np.log(rows.probs).astype(np.float32), part.mass_T.astype(np.float64))


def _nothing(sources: int, positions: int) -> Taught:
    empty = Distributions(
        np.zeros(positions + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(positions)
    )
    no_scores = np.full((sources, positions), np.nan, np.float32)
    return Taught(empty, np.full(positions, -1, np.int32), np.zeros_like(no_scores), no_scores)
