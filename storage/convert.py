"""Capture shards from plain to compact and back: file to file; publishing the result is the caller's."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from logitfuse.storage.capture_rows import ROWS, write_compact
from logitfuse.storage.compact import COMPACT, metadata, most_kept
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import ShardWriter, read_batches, read_together, undamaged

EXACT = ("first", "counts", "ids", "draws", "gold_rank")  # what no form may change
Written = Callable[[int], None]  # told how many chunks were written so far


def is_compact(path: Path) -> bool:
    """Say whether a capture shard is a compact one; raise `ShardCorrupt` for a codec this version does not know."""
    with undamaged(path):
        return most_kept(pq.read_schema(path), str(path)) is not None


def to_compact(plain: Path, compact: Path, k: int, rows: int = ROWS, written: Written = lambda chunks: None) -> int:
    """Write a plain capture shard, at most k tokens a position, in the compact form; return the number of chunks.

    Memory does not grow with the shard. Raises `BadInput` if the shard is compact already.
    """
    if is_compact(plain):
        raise BadInput(f"{plain}: it is compact already.")
    writer = ShardWriter(compact, COMPACT, metadata(k))
    try:
        for batch in read_batches(plain, None, rows):
            write_compact(writer, batch, k)
            written(writer.rows)
    finally:
        writer.close()
    return writer.rows


def to_plain(compact: Path, plain: Path, rows: int = ROWS, written: Written = lambda chunks: None) -> int:
    """Write a compact capture shard in the plain form, as it now reads; return the number of chunks."""
    writer = ShardWriter(plain, CAPTURE, {"stage": "capture", "version": str(CAPTURE.version)})
    try:
        for batch in read_batches(compact, None, rows):
            writer.write(dict(zip(batch.schema.names, batch.columns, strict=True)))
            written(writer.rows)
    finally:
        writer.close()
    return writer.rows


def check_converted(given: Path, made: Path) -> None:
    """Read both forms of a shard side by side; raise `ShardCorrupt` or `ShardMismatch` where they should not differ."""
    for batches in read_together({"given": (given, EXACT), "made": (made, EXACT)}, ROWS):
        for column in EXACT:
            if not batches["made"].column(column).equals(batches["given"].column(column)):
                where = batches["given"].column("doc_id")[0].as_py()
                raise ShardCorrupt(
                    f"{given}: its {column} did not survive the conversion near document {where!r}. Nothing was "
                    "published. Convert it again; if that fails too, capture it again in the form you want."
                )
