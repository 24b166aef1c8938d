"""Writing captured rows in either form, and from one form to the other."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from logitfuse.storage.compact import COMPACT, encode_batch, metadata
from logitfuse.storage.gathering import gathering
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import ShardWriter, writing_rows

Codec = Literal["plain", "compact"]
Add = Callable[[Mapping[str, Any]], None]
ROWS = 64  # per row group


def writing_capture(path: Path, codec: Codec, k: int, rows: int = ROWS) -> AbstractContextManager[Add]:
    """Yield a function that takes one row of `CAPTURE`; row groups of `rows` are written in the codec as they fill.

    `k` is the most tokens that any position keeps. Compact raises `BadInput` where one keeps more, or not best first.
    """
    return writing_rows(path, CAPTURE, rows) if codec == "plain" else _writing_compact(path, k, rows)


@contextmanager
def _writing_compact(path: Path, k: int, rows: int) -> Iterator[Add]:
    writer = ShardWriter(path, COMPACT, metadata(k))

    def write(columns: dict[str, list[Any]]) -> None:
        arrays = [pa.array(columns[field.name], type=field.type) for field in CAPTURE.arrow]
        write_compact(writer, pa.RecordBatch.from_arrays(arrays, schema=CAPTURE.arrow), k)

    try:
        with gathering(write, rows) as add:
            yield add
    finally:
        writer.close()


def write_compact(writer: ShardWriter, batch: pa.RecordBatch, k: int) -> None:
    """Write one row group of `CAPTURE` rows to a compact shard."""
    found = encode_batch(batch, k)
    writer.write(dict(zip(found.schema.names, found.columns, strict=True)))
