"""Offsets of list columns: counted in 64 bits, stored in 32 bits per batch, never wrapped."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitfuse.storage.errors import BadInput

MOST_VALUES = 2**31 - 1  # of one list column of one batch, hence of one row group; a shard has any number of them


def list_offsets(offsets: NDArray[np.integer], column: str) -> pa.Array:
    """Return a list column's offsets [C+1] as Arrow wants them, int32.

    Raises `BadInput` where a batch holds more values than 32 bits count: cast as they are, the offsets would wrap and
    rows would silently hold other rows' values.
    """
    if len(offsets) and int(offsets[-1]) > MOST_VALUES:
        raise BadInput(
            f"column {column!r} has {int(offsets[-1]):,} values in one batch of {len(offsets) - 1} chunks; a batch "
            f"holds at most {MOST_VALUES:,}. Lower corpus.max_chunk_bytes or capture.k."
        )
    return pa.array(offsets.astype(np.int32))


def check_batches(metadata: pq.FileMetaData, rows: int, where: str, most: int = MOST_VALUES) -> None:
    """Raise `BadInput` where batches of `rows` rows, which may span row groups, could hold more than `most` values."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = [max((g.column(place).num_values for place in range(g.num_columns)), default=0) for g in groups]
    if sum(largest) <= most:
        return
    ends = np.cumsum([group.num_rows for group in groups])
    for first in range(len(groups)):  # a batch begins in this row group, at its last row at the latest
        last = int(np.searchsorted(ends, ends[first] - 1 + rows, side="left"))
        held = sum(largest[first : last + 1])
        if held > most:
            raise BadInput(
                f"{where}: {rows} rows from row group {first} on may hold {held:,} values of one column, a batch at "
                f"most {most:,}. Lower corpus.max_chunk_bytes or capture.k and make it again."
            )
