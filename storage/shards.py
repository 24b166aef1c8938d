"""Shards: Parquet files of one schema, written by row groups, read only after their checksum was verified."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from logitfuse.storage.arrow_errors import reading_arrow
from logitfuse.storage.checksums import checksum_file, checksum_once
from logitfuse.storage.compact import most_kept, stored_columns
from logitfuse.storage.compact_reading import read_compact_batches
from logitfuse.storage.errors import ShardCorrupt, ShardMismatch
from logitfuse.storage.gathering import gathering
from logitfuse.storage.offsets import check_batches
from logitfuse.storage.records import Record, StoredFile
from logitfuse.storage.schemas import StageSchema
from logitfuse.storage.store import Store, only_a_file

IDENTITY_COLUMNS = ["doc_id", "chunk", "text_hash"]
COMPRESSION_LEVEL = 6  # 3% smaller than level 3 for twice its time, which a writer beside a model has; 9 gains 0.3%


class ShardWriter:
    """Writes one shard's rows to a scratch file, a row group per call."""

    def __init__(self, path: Path, schema: StageSchema, metadata: Mapping[str, str]) -> None:
        self.rows = 0
        self._schema = schema.arrow.with_metadata({f"logitfuse.{k}": v for k, v in metadata.items()})
        self._writer = pq.ParquetWriter(path, self._schema, **_encodings(schema.arrow))

    def write(self, columns: Mapping[str, pa.Array | Sequence]) -> None:
        """Append rows given by column; every column of the schema must be there and of its type."""
        arrays = [_as_array(columns[field.name], field.type) for field in self._schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def close(self) -> None:
        self._writer.close()


def stored_file(path: Path, name: str) -> StoredFile:
    """Describe a finished file for its record."""
    return StoredFile(name=name, bytes=path.stat().st_size, checksum=checksum_file(path))


def verified_path(store: Store, record: Record, index: int = 0) -> Path:
    """Return the local path of a record's file after checking its bytes; raise `ShardCorrupt`."""
    return _verified(store, record, record.files[index], checksum_file)


def verified_folder(store: Store, record: Record) -> Path:
    """Return the local folder of a result, such as a model, after checking the bytes of all its files.

    Raises `ShardCorrupt`. A file that is as it was is read once in a process, however often it is asked for.
    """
    for file in record.files:
        _verified(store, record, file, checksum_once)
    return store.folder(record)


def _verified(store: Store, record: Record, file: StoredFile, checksum: Callable[[Path], str]) -> Path:
    name = f"{record.place}/{file.name}"
    try:
        path = only_a_file(store.file(record, file))
        sound = path.stat().st_size == file.bytes and checksum(path) == file.checksum
    except (FileNotFoundError, NotADirectoryError):
        raise ShardCorrupt(f"{name}: the file is missing. {record.redo}") from None
    except ShardCorrupt:
        raise ShardCorrupt(f"{name}: this is no file. Delete it. {record.redo}") from None
    if not sound:
        raise ShardCorrupt(f"{name}: its bytes are not the ones that were written. {record.redo}")
    return path


def read_batches(
    path: Path, columns: Sequence[str] | None, rows: int = 64, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield record batches of at most `rows` rows; memory does not grow with the shard.

    A capture shard in the compact form reads as a plain one. `groups`: only these row groups, None for all.
    """
    with undamaged(path), pq.ParquetFile(path) as file:
        check_batches(file.metadata, rows, str(path))
        k = most_kept(file.schema_arrow, str(path))
        _require(file.schema_arrow.names, columns or () if k is None else stored_columns(columns or ()), path)
        if k is None:
            names = list(columns) if columns else None
            for batch in file.iter_batches(batch_size=rows, row_groups=groups, columns=names):
                batch.validate(full=True)  # texts that are no UTF-8 would break whoever looks at them
                yield batch
        else:
            yield from read_compact_batches(file, k, columns, rows, groups)


def undamaged(path: Path) -> AbstractContextManager[None]:
    """Let what Arrow finds wrong with a file in the block be a `ShardCorrupt`."""
    advice = "Run its stage again with --redo."
    return reading_arrow(lambda said: ShardCorrupt(f"{path}: it cannot be read as Parquet ({said}). {advice}"))


def _require(there: Sequence[str], columns: Iterable[str], path: Path) -> None:
    """Raise `ShardCorrupt` unless all columns are there; Arrow would leave the missing ones out without a word."""
    if missing := [name for name in columns if name not in there]:
        raise ShardCorrupt(f"{path}: it has no column {', '.join(missing)}. Run its stage again with --redo.")


def read_together(
    shards: Mapping[str, tuple[Path, Sequence[str]]], rows: int = 64
) -> Iterator[dict[str, pa.RecordBatch]]:
    """Yield batches of several shards of the same text, row by row the same chunks.

    `shards` maps a name to (path, columns). Rows are joined by document id, chunk and text hash: any difference
    raises `ShardMismatch`; nothing is ever joined by position alone.
    """
    names = list(shards)
    readers = [
        read_batches(path, [*IDENTITY_COLUMNS, *(c for c in columns if c not in IDENTITY_COLUMNS)], rows)
        for path, columns in shards.values()
    ]
    done = object()
    while True:
        batches = [next(reader, done) for reader in readers]
        if all(batch is done for batch in batches):
            return
        for name, batch in zip(names[1:], batches[1:], strict=True):
            check_same_rows(names[0], batches[0], name, batch, done)
        yield dict(zip(names, batches, strict=True))


def check_same_rows(first: str, left: object, second: str, right: object, done: object = None) -> None:
    """Raise `ShardMismatch` unless two batches hold the same chunks of text; `done` stands for no batch."""
    if left is done or right is done:
        raise ShardMismatch(f"{first} and {second} do not hold the same number of chunks. Rerun the older one's stage.")
    assert isinstance(left, pa.RecordBatch) and isinstance(right, pa.RecordBatch)
    for column in IDENTITY_COLUMNS:
        if not left.column(column).equals(right.column(column)):
            raise ShardMismatch(
                f"{first} and {second} were not made from the same text (column {column!r} differs near document "
                f"{left.column('doc_id')[0].as_py()!r}). Rerun the older one's stage with --redo."
            )


def _as_array(values: pa.Array | Sequence, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, type=kind)


def _encodings(schema: pa.Schema) -> dict:
    """Byte-stream-split for numbers (their high bytes repeat), dictionaries for short repeated strings only."""
    split = [f"{field.name}.list.element" for field in schema if pa.types.is_list(field.type)]
    words = [name for name in ("doc_id", "domain", "split", "how") if name in schema.names]
    return {
        "compression": "zstd",
        "compression_level": COMPRESSION_LEVEL,
        "use_dictionary": words,
        "use_byte_stream_split": split,
        "store_schema": True,
        "write_statistics": False,
        "write_page_checksum": True,
    }


class Rows:
    """Row access to the list columns of a record batch, without copies."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        self._lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._batch.num_rows

    def value(self, column: str, row: int) -> Any:
        """Return one plain value."""
        return self._batch.column(column)[row].as_py()

    def values(self, column: str, row: int) -> np.ndarray:
        """Return one row of a list column as a NumPy view."""
        if column not in self._lists:
            array = self._batch.column(column)
            flat = array.values.to_numpy(zero_copy_only=False)
            self._lists[column] = (array.offsets.to_numpy(), flat)
        offsets, flat = self._lists[column]
        return flat[offsets[row] : offsets[row + 1]]

    def identity(self, row: int) -> dict[str, Any]:
        """Return the columns that tie the row to its text."""
        return {column: self.value(column, row) for column in IDENTITY_COLUMNS}


def rows_together(
    shards: Mapping[str, tuple[Path, Sequence[str]]], rows: int = 64
) -> Iterator[tuple[dict[str, Rows], int]]:
    """Yield ({name: rows}, row number) for every chunk of several shards of the same text."""
    for batches in read_together(shards, rows):
        views = {name: Rows(batch) for name, batch in batches.items()}
        for row in range(len(next(iter(views.values())))):
            yield views, row


@contextmanager
def writing_rows(path: Path, schema: StageSchema, rows: int = 64) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that takes one row; row groups of `rows` are written as they fill."""
    writer = ShardWriter(path, schema, {"stage": schema.stage, "version": str(schema.version)})
    try:
        with gathering(writer.write, rows) as add:
            yield add
    finally:
        writer.close()
