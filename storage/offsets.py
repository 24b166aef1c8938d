"""Offsets of list columns: counted in 64 bits, stored in 32 bits per batch, never wrapped."""

import numpy as np
import pyarrow as pa
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
