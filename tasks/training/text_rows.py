"""Training rows from encoded shards: the labels alone, no fused targets."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from logitfuse.kernels.positions import inputs_and_labels
from logitfuse.storage.schemas import ENCODE, FUSE
from logitfuse.storage.shards import IDENTITY_COLUMNS, read_together
from logitfuse.tasks.training.config import PlainText, WorkerConfig
from logitfuse.tasks.training.data import FusedRows
from logitfuse.tasks.training.fused_file import opened

COLUMNS = (*IDENTITY_COLUMNS, "last", "ids")
ROWS = 1024  # compared with their texts at a time


class TextRows(FusedRows):
    """The training rows of encoded shards, looking like fused rows that no source serves."""

    _called = "encoded"

    def __init__(self, text: PlainText, sequence_length: int, **options: Any) -> None:
        """See `FusedRows`. Raises `ShardMismatch` where an encoded shard is not of its prepared shard's text."""
        self._text = text
        self._splits = {shard.path: _splits(shard.path, shard.prepared, text.domains) for shard in text.shards}
        super().__init__([shard.path for shard in text.shards], sequence_length, **options)

    def _opened(self, path: Path) -> AbstractContextManager[pq.ParquetFile]:
        return opened(path, ENCODE, COLUMNS)

    def _table(self, file: pq.ParquetFile, path: Path, group: int, columns: list[str]) -> pa.Table:
        encoded = file.read_row_group(group, columns=list(COLUMNS))
        start = sum(file.metadata.row_group(before).num_rows for before in range(group))
        rows = [self._row(ids, last) for ids, last in zip(_lists(encoded["ids"]), encoded["last"], strict=True)]
        inputs, labels = (list(part) for part in zip(*rows, strict=True)) if rows else ([], [])
        nothing = [np.zeros(len(row), np.int32) for row in inputs]
        found = {
            **{name: encoded[name] for name in IDENTITY_COLUMNS},
            "split": self._splits[path].slice(start, len(encoded)).cast(pa.string()),
            "inputs": inputs,
            "labels": labels,
            "counts": nothing,
            "mass": nothing,
            "ids": [[]] * len(rows),
            "logprobs": [[]] * len(rows),
            "scores": [[np.nan]] * len(rows),
        }
        schema = pa.schema([FUSE.arrow.field(name) for name in columns])
        return pa.table({name: found[name] for name in columns}, schema=schema)

    def _row(self, ids: np.ndarray, last: pa.Scalar) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels of one chunk, with the tokens around it that stage capture would give it."""
        return inputs_and_labels(ids, start=self._text.start, end=self._text.end if last.as_py() else None)


def training_rows(config: WorkerConfig, vocabulary: int) -> FusedRows:
    """Return the rows a run learns from; `vocabulary` is the head's width."""
    settings = config.settings
    options: dict[str, Any] = {
        "vocabulary": vocabulary, "cached_rows": settings.shuffle_rows, "documents": settings.documents,
    }  # fmt: skip
    if config.text is not None:
        return TextRows(config.text, settings.sequence_length, **options)
    return FusedRows([shard.path for shard in config.shards], settings.sequence_length, **options)


def _splits(encoded: Path, prepared: Path, domains: tuple[str, ...]) -> pa.ChunkedArray:
    """Return the split of every chunk of an encoded shard, whose texts are held against the prepared ones.

    With `domains` the chunks of all others have none.
    """
    together = read_together({"prepare": (prepared, ["split", "domain"]), "encode": (encoded, [])}, rows=ROWS)
    parts = [_wanted(batches["prepare"], domains) for batches in together]
    return pa.chunked_array(parts, type=pa.string()).dictionary_encode()  # a few names, for every chunk of the corpus


def _wanted(prepared: pa.RecordBatch, domains: tuple[str, ...]) -> pa.Array:
    if not domains:
        return prepared.column("split")
    inside = pc.is_in(prepared.column("domain"), value_set=pa.array(domains, pa.string()))
    return pc.if_else(inside, prepared.column("split").cast(pa.string()), "")


def _lists(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Return the rows of a list column."""
    array = column.combine_chunks()
    values, offsets = array.values.to_numpy(zero_copy_only=False), array.offsets.to_numpy()
    return [values[begin:end] for begin, end in pairwise(offsets.tolist())]
