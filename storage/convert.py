"""Capture shards from plain to compact and back: file to file; publishing the result is the caller's."""

from pathlib import Path

import pyarrow.parquet as pq

from logitfuse.storage.compact import COMPACT, encode_batch, kept_tokens, metadata, read_compact_batches
from logitfuse.storage.errors import BadInput
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import ShardWriter, read_batches

ROWS = 64  # per row group, as stages write them


def is_compact(path: Path) -> bool:
    """Say whether a capture shard is a compact one; raise `ShardCorrupt` for a codec this version does not know."""
    return kept_tokens(pq.read_schema(path), str(path)) is not None


def to_compact(plain: Path, compact: Path, k: int, rows: int = ROWS) -> int:
    """Write a plain capture shard, k tokens per position, in the compact form; return the number of chunks.

    Memory does not grow with the shard. Raises `BadInput` if the shard is compact already.
    """
    if is_compact(plain):
        raise BadInput(f"{plain}: it is compact already.")
    writer = ShardWriter(compact, COMPACT, metadata(k))
    try:
        for batch in read_batches(plain, CAPTURE.arrow.names, rows):
            found = encode_batch(batch, k)
            writer.write(dict(zip(found.schema.names, found.columns, strict=True)))
    finally:
        writer.close()
    return writer.rows


def to_plain(compact: Path, plain: Path, rows: int = ROWS) -> int:
    """Write a compact capture shard in the plain form, as it now reads; return the number of chunks."""
    writer = ShardWriter(plain, CAPTURE, {"stage": "capture", "version": str(CAPTURE.version)})
    try:
        for batch in read_compact_batches(compact, None, rows):
            writer.write(dict(zip(batch.schema.names, batch.columns, strict=True)))
    finally:
        writer.close()
    return writer.rows
