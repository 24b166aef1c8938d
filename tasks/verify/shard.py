"""Checking one result: its record, its files, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from logitfuse.storage.arrow_errors import UNREADABLE
from logitfuse.storage.compact import COMPACT, most_kept
from logitfuse.storage.errors import ShardCorrupt, ShardMismatch
from logitfuse.storage.records import Record
from logitfuse.storage.schemas import CAPTURE, SCHEMAS
from logitfuse.storage.shards import IDENTITY_COLUMNS, read_batches
from logitfuse.storage.store import LocalStore
from logitfuse.storage.system_errors import out_of_memory
from logitfuse.tasks.engine import Work
from logitfuse.tasks.verify.chunks import OWN, Chunks, Lane
from logitfuse.tasks.verify.faults import ShardFaults
from logitfuse.tasks.verify.plans import Beside, Plan


def check_record(record: Record, work: Work, found: ShardFaults) -> None:
    """Check that a record describes the work that it was found under."""
    wanted = {
        "stage": work.stage,
        "place": work.place,
        "name": work.name,
        "shard": work.shard,
        "key": work.key,
        "inputs": [made.checksum for made in work.inputs],
        "fingerprints": work.fingerprints,
    }
    for name, value in wanted.items():
        if getattr(record, name) != value:
            found.whole(f"its record's {name} is not that of the work it stands for")
    if not record.files:
        found.whole("its record vouches for no file")


def check_files(store: LocalStore, record: Record, found: ShardFaults) -> None:
    """Check that a record's files are there, whole, and, if they are shards, of the schema that this version writes."""
    for file in record.files:
        name = f"{record.place}/{file.name}"
        size = store.size(record, file)
        if size is None:
            found.whole(f"the file {name} is missing")
        elif size != file.bytes:
            found.whole(f"{name} has {size:,} bytes, its record says {file.bytes:,}")
        elif store.checksum(record, file) != file.checksum:
            found.whole(f"{name}: its bytes are not the ones that were written (checksum)")
        elif record.stage in SCHEMAS and file.name.endswith(".parquet"):
            _check_schema(store.file(record, file), record, name, found)


def _check_schema(path: Path, record: Record, name: str, found: ShardFaults) -> None:
    wanted = SCHEMAS[record.stage]
    try:
        schema = pq.read_schema(path)
        metadata = schema.metadata or {}
        if record.stage == CAPTURE.stage and most_kept(schema, name) is not None:
            wanted = COMPACT
    except UNREADABLE as error:
        _raise_the_machines(error)
        found.whole(f"{name} cannot be read as Parquet: {_short(error)}")
        return
    except (ShardCorrupt, ValueError, KeyError) as error:
        found.whole(f"{name}: its form is not known: {_short(error)}")
        return
    if not schema.equals(wanted.arrow, check_metadata=False):
        found.whole(f"{name}: its columns are not those of stage {record.stage}")
    stage, version = (metadata.get(f"logitfuse.{key}".encode(), b"").decode() for key in ("stage", "version"))
    if (stage, version) != (wanted.stage, str(wanted.version)):
        found.whole(
            f"{name} says it is {stage or 'nothing'} version {version or 'none'}, wanted version {wanted.version}"
        )


def check_content(
    store: LocalStore, record: Record, plan: Plan, others: Mapping[str, Beside], found: ShardFaults
) -> int:
    """Check a shard's rows beside those of `others`; return how many there are."""
    lanes = {name: Lane(_rows_beside(store, beside, plan.rows)) for name, beside in others.items()}
    rows = 0
    try:
        for batch in _rows(store.file(record, record.files[0]), plan.rows):
            chunks = Chunks.of({OWN: batch, **_joined(batch, lanes, others, found)})
            for what, faulty in plan.content.check(chunks):
                found.rows(what, batch, faulty)
            rows += batch.num_rows
    except (ShardCorrupt, *UNREADABLE) as error:
        _raise_the_machines(error)
        found.whole(f"it cannot be read after {rows:,} rows: {_short(error)}")
        return rows
    for name, lane in lanes.items():
        if _taken(lane, 1) is not None:
            found.whole(f"{others[name].records[-1].label} holds more chunks than it does")
    if missing := plan.content.left_over():
        found.whole(missing)
    _check_counts(record, {"chunks": rows, **plan.content.counted()}, found)
    return rows


def _rows(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a shard's batches; raise `ShardCorrupt` where the compact form's numbers do not fit together."""
    try:
        yield from read_batches(path, None, rows)
    except (ValueError, IndexError) as error:
        raise ShardCorrupt(str(error)) from error


def _check_counts(record: Record, counted: dict[str, int], found: ShardFaults) -> None:
    for name, value in counted.items():
        if name in record.counts and record.counts[name] != value:
            found.whole(f"it holds {value:,} {name.replace('_', ' ')}, its record says {record.counts[name]:,}")


def _rows_beside(store: LocalStore, beside: Beside, rows: int) -> Iterator[pa.RecordBatch]:
    columns = list(dict.fromkeys([*IDENTITY_COLUMNS, *beside.columns]))
    for record in beside.records:
        for batch in read_batches(store.file(record, record.files[0]), columns, rows):
            wanted = batch if beside.split is None else batch.filter(pc.equal(batch.column("split"), beside.split))
            if wanted.num_rows:
                yield wanted


def _joined(
    batch: pa.RecordBatch, lanes: dict[str, Lane], others: Mapping[str, Beside], found: ShardFaults
) -> dict[str, pa.RecordBatch]:
    """Return the same chunks of other shards; one that does not hold the same chunks is no longer compared with."""
    same = {}
    for name in list(lanes):
        other = _taken(lanes[name], batch.num_rows)
        label = " and ".join(record.label for record in others[name].records)
        if differing := _differing(batch, other):
            column, rows = differing
            what = f"its {column} is not that of {label}" if column else f"{label} ends before it"
            found.rows(what, batch, rows)
            del lanes[name]
        elif other is not None:
            same[name] = other
    return same


def _differing(batch: pa.RecordBatch, other: pa.RecordBatch | None) -> tuple[str | None, np.ndarray] | None:
    """Return the identity column in which batches differ (None: one ends first) and the rows; None if they agree."""
    shared = 0
    if other is not None:
        shared = other.num_rows
        for column in IDENTITY_COLUMNS:
            equal = pc.equal(batch.column(column).slice(0, shared), other.column(column))
            if len(rows := np.flatnonzero(~equal.to_numpy(zero_copy_only=False))):
                return column, rows
    return None if shared == batch.num_rows else (None, np.arange(shared, batch.num_rows))


def _taken(lane: Lane, rows: int) -> pa.RecordBatch | None:
    """Take rows of another shard; what is wrong with that one is said where it is checked itself."""
    try:
        return lane.take(rows)
    except (*UNREADABLE, ShardCorrupt, ShardMismatch) as error:
        _raise_the_machines(error)
        return None


def _raise_the_machines(error: Exception) -> None:
    """Raise what is no fault of a file but of the machine, which has no memory or no threads left."""
    if told := out_of_memory(error):
        raise told from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
