"""Reading compact capture shards as if they were plain ones."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from logitfuse.storage.compact import decode_batch, stored_columns
from logitfuse.storage.schemas import CAPTURE


def read_compact_batches(
    file: pq.ParquetFile, k: int, columns: Sequence[str] | None, rows: int, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield record batches of `CAPTURE` columns, of `rows` rows all but the last, from a compact shard with this k.

    One row group is in memory at a time, and `rows` rows; only what holds the asked columns is read. `groups`: only
    these row groups, None for all.
    """
    wanted = [name for name in columns or CAPTURE.arrow.names if name in CAPTURE.arrow.names]
    waiting: list[pa.RecordBatch] = []
    for group in range(file.num_row_groups) if groups is None else groups:
        whole = pa.concat_batches(file.read_row_group(group, columns=stored_columns(wanted)).to_batches())
        waiting.append(decode_batch(whole, k, wanted).select(wanted))
        while sum(batch.num_rows for batch in waiting) >= rows:
            together = pa.concat_batches(waiting)
            yield together[:rows]
            waiting = [together[rows:]]
    if sum(batch.num_rows for batch in waiting):
        yield pa.concat_batches(waiting)
