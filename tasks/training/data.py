"""Training rows by random access from fused shards, of which only some row groups are in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMismatch
from logitfuse.tasks.training.fused_file import COLUMNS, INDEXED, PER_ENTRY, PER_POSITION, digest, opened
from logitfuse.tasks.training.settings import DocumentShare
from logitfuse.tasks.training.shares import of_share

TRAIN_SPLIT = "train"
CACHED_POOLS = 1.25  # row groups kept in memory, in shuffle pools: a step may reach into the next one


class Example(NamedTuple):
    """One sequence: T positions, of which position t has `counts[t]` entries of `ids` and `logprobs`."""

    doc_id: str
    inputs: NDArray[np.int32]  # [T]
    labels: NDArray[np.int32]  # [T]
    counts: NDArray[np.int32]  # [T] 0 where no source serves the position
    mass: NDArray[np.float32]  # [T] Σ of the kept probabilities
    ids: NDArray[np.int32]  # [counts.sum()] best first
    logprobs: NDArray[np.float32]
    scores: NDArray[np.float32]  # [S] of each source on the document or block, NaN where it has none


class FusedRows:
    """The training rows of fused shards, cut into windows of at most `sequence_length` positions."""

    _called = "fused"  # in messages

    def __init__(
        self,
        shards: Sequence[Path],
        sequence_length: int,
        *,
        vocabulary: int,
        cached_rows: int = 8192,
        documents: DocumentShare = "all",
    ) -> None:
        """Read the lengths of all rows. `vocabulary` is the head's width; `cached_rows` bounds what stays in memory.

        `documents`: which training documents are read. Raises `BadInput` if no row is for training, `ShardMismatch` for
        a file that is no shard of its stage or whose rows were given before.
        """
        self._vocabulary, self._documents = vocabulary, documents
        self._cached_rows = int(cached_rows * CACHED_POOLS)
        self._cache: OrderedDict[int, _RowGroup] = OrderedDict()
        self._places: list[tuple[Path, int]] = []  # file and number in it of each row group
        self._digests: list[bytes] = []  # what was found in each row group
        self._files: dict[bytes, Path] = {}  # where it was found
        indexed = [self._index(path, sequence_length) for path in shards]
        self._windows_W4 = np.concatenate([np.empty((0, 4), np.int32), *indexed])  # row group, row, start, length
        if not len(self._windows_W4):
            raise BadInput(
                f"{len(shards)} {self._called} shards hold no row of split {TRAIN_SPLIT!r}{_of(documents)}. Give the "
                "recipe a larger corpus or a smaller held-out share."
            )

    @property
    def groups(self) -> NDArray[np.int32]:
        """The row group of each window, ascending."""
        return self._windows_W4[:, 0]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """The positions of each window."""
        return self._windows_W4[:, 3]

    def read(self, windows: NDArray[np.int64]) -> list[Example]:
        """Return windows in the order asked for; every row group is loaded at most once."""
        found: dict[int, Example] = {}
        for window in sorted(windows.tolist(), key=lambda w: self._windows_W4[w, 0]):
            number, row, start, length = self._windows_W4[window].tolist()
            found[window] = self._row_group(number).window(row, start, length)
        return [found[window] for window in windows.tolist()]

    def _index(self, path: Path, sequence_length: int) -> NDArray[np.int32]:
        """Return the windows [W, 4] of one shard."""
        parts = [np.empty((0, 4), np.int32)]
        with self._opened(path) as file:
            for group in range(file.num_row_groups):
                table = self._table(file, path, group, INDEXED)
                found = digest(file, group, table)
                if found in self._files:
                    raise ShardMismatch(f"{path} holds rows of {self._files[found]} once more. Give each shard once.")
                parts.append(_windows(table, len(self._places), sequence_length, self._documents))
                self._places.append((path, group))
                self._digests.append(found)
                self._files[found] = path
        return np.concatenate(parts)

    def _opened(self, path: Path) -> AbstractContextManager[pq.ParquetFile]:
        """Open one shard."""
        return opened(path)

    def _table(self, file: pq.ParquetFile, path: Path, group: int, columns: list[str]) -> pa.Table:
        """Return these columns of one row group, as stage fuse has them."""
        return file.read_row_group(group, columns=columns)

    def _row_group(self, number: int) -> _RowGroup:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        path, group = self._places[number]
        with self._opened(path) as file:
            table = self._table(file, path, group, COLUMNS) if group < file.num_row_groups else None
            if table is None or digest(file, group, table) != self._digests[number]:
                raise ShardMismatch(
                    f"{path}: row group {group} does not hold the documents, texts and sizes it held when training "
                    "began. The file was replaced; start training again, on the shards that are there now."
                )
        loaded = _load(table, f"{path}, row group {group}", self._vocabulary)
        sources = loaded.scores_RS.shape[1]
        if next((g.scores_RS.shape[1] for g in self._cache.values()), sources) != sources:
            raise ShardMismatch(f"{path}: its rows were fused from {sources} sources, others from more or fewer.")
        while self._cache and sum(g.rows for g in self._cache.values()) + loaded.rows > self._cached_rows:
            self._cache.popitem(last=False)
        self._cache[number] = loaded
        return loaded


@dataclass(frozen=True)
class _RowGroup:
    """One row group as flat arrays."""

    doc_ids: pa.ChunkedArray
    row_starts: NDArray[np.int64]  # [R+1] first position of each row
    entry_starts: NDArray[np.int64]  # [P+1] first entry of each position
    flat: dict[str, NDArray]
    scores_RS: NDArray[np.float32]

    @property
    def rows(self) -> int:
        return len(self.row_starts) - 1

    def window(self, row: int, start: int, length: int) -> Example:
        first = int(self.row_starts[row]) + start
        positions = slice(first, first + length)
        entries = slice(int(self.entry_starts[first]), int(self.entry_starts[first + length]))
        inputs, labels, counts, mass = (self.flat[name][positions] for name in ("inputs", *PER_POSITION))
        ids, logprobs = (self.flat[name][entries] for name in PER_ENTRY)
        return Example(self.doc_ids[row].as_py(), inputs, labels, counts, mass, ids, logprobs, self.scores_RS[row])


def _windows(table: pa.Table, number: int, sequence_length: int, documents: DocumentShare) -> NDArray[np.int32]:
    """Cut row group `number`'s training rows into windows [W, 4]; `inputs` is looked at for its lengths alone."""
    lengths = pc.list_value_length(table["inputs"]).to_numpy()
    lengths = np.where(pc.equal(table["split"], TRAIN_SPLIT).to_numpy(), lengths, 0)
    lengths = np.where(of_share(table["doc_id"].to_pylist(), documents), lengths, 0)
    counts = -(-lengths // sequence_length)
    rows = np.repeat(np.arange(len(lengths)), counts)
    starts = (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)) * sequence_length
    taken = np.minimum(lengths[rows] - starts, sequence_length)
    return np.stack([np.full_like(rows, number), rows, starts, taken], axis=1).astype(np.int32)


def _load(table: pa.Table, where: str, vocabulary: int) -> _RowGroup:
    """Turn a table into flat arrays after checking that its lists belong together and its ids to the model."""
    flat, starts = {}, {}
    for name in ("inputs", *PER_POSITION, *PER_ENTRY):
        column = table[name].combine_chunks()
        flat[name] = column.flatten().to_numpy(zero_copy_only=False)
        starts[name] = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())]).astype(np.int64)
    entry_starts = np.concatenate([[0], np.cumsum(flat["counts"], dtype=np.int64)])
    rows = starts["inputs"]
    if not all(np.array_equal(rows, starts[name]) for name in PER_POSITION) or not all(
        np.array_equal(entry_starts[rows], starts[name]) for name in PER_ENTRY
    ):
        raise ShardCorrupt(f"{where}: its lists do not have the lengths that belong together. Redo stage 'fuse'.")
    for name in ("inputs", "labels", "ids"):
        values = flat[name][flat[name] != NO_LABEL] if name == "labels" else flat[name]
        if len(values) and (values.min() < 0 or values.max() >= vocabulary):
            raise ShardMismatch(
                f"{where}: column {name!r} holds token {values.max()} (least {values.min()}), but the model "
                f"predicts {vocabulary} tokens. The shard was made for another target; redo stage 'fuse' for this one."
            )
    scores = table["scores"].combine_chunks()
    if len(set(pc.list_value_length(scores).to_pylist())) > 1:
        raise ShardCorrupt(f"{where}: its rows do not have scores of the same sources. Redo stage 'fuse'.")
    scores_RS = scores.flatten().to_numpy(zero_copy_only=False).reshape(len(scores), -1)
    return _RowGroup(table["doc_id"], rows, entry_starts, flat, scores_RS)


def _of(documents: DocumentShare) -> str:
    return "" if documents == "all" else f" in the {documents} half of the documents"
