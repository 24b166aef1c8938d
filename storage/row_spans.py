"""A few rows out of the middle of shards: only the row groups that hold them are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from logitfuse.storage.errors import ShardMismatch
from logitfuse.storage.shards import IDENTITY_COLUMNS, check_same_rows, read_batches, undamaged


def read_span(shards: Mapping[str, tuple[Path, Sequence[str]]], start: int, stop: int) -> dict[str, pa.RecordBatch]:
    """Return rows start to stop of several shards of the same text, by name; see `read_together`.

    The paths are verified ones. Raises `ShardMismatch` where the rows are not of the same chunks, `ShardCorrupt`.
    """
    found = {}
    for name, (path, columns) in shards.items():
        names = [*IDENTITY_COLUMNS, *(column for column in columns if column not in IDENTITY_COLUMNS)]
        if not (batches := list(_rows(path, names, start, stop))):
            raise ShardMismatch(
                f"{path}: it has no rows {start} to {stop}, as others of its text have. Redo its stage."
            )
        found[name] = pa.concat_batches(batches)
    first, *others = found
    for name in others:
        check_same_rows(first, found[first], name, found[name])
    return found


def _rows(path: Path, columns: Sequence[str], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Yield rows start to stop of one shard, as far as it has them."""
    groups, at = _groups(path, start, stop)
    for batch in read_batches(path, columns, groups=groups):
        low, high = max(start - at, 0), min(stop - at, batch.num_rows)
        at += batch.num_rows
        if low < high:
            yield batch[low:high]


def _groups(path: Path, start: int, stop: int) -> tuple[list[int], int]:
    """Return the row groups that hold these rows, and the number of the first one's first row."""
    with undamaged(path):
        metadata = pq.read_metadata(path)
    begins, at = [], 0
    for group in range(metadata.num_row_groups):
        begins.append(at)
        at += metadata.row_group(group).num_rows
    ends = [*begins[1:], at]
    chosen = [g for g in range(len(begins)) if begins[g] < stop and ends[g] > start]
    return chosen, begins[chosen[0]] if chosen else 0
