"""The compact codec of capture shards: the same rows in about two thirds of the bytes, still Parquet.

What is stored is in `COMPACT`, how it is computed in kernels/compact.py, what is lost here:
`logprobs`, `tail` and the gold token's log-probability where it is among the kept tokens move to the nearest step
(mean KL divergence at most 5e-6 nats, no log-probability by more than 1/32 nat, the sum of all by at most 0.0052);
all else comes back as it was. Ranks of ids start anew with each row group, which is therefore decoded whole.

Legend: C chunks, P positions, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitfuse.kernels.compact import (
    differences,
    finest_step,
    frequency_ranks,
    ids_of_ranks,
    step_numbers,
    step_values,
    sums,
)
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.offsets import list_offsets
from logitfuse.storage.schemas import CAPTURE, FLOATS, IDENTITY, IDS, StageSchema

CODEC, KEPT = b"logitfuse.codec", b"logitfuse.k"
COMPACT_VERSION = 1  # of the codec; a shard's metadata hold it beside the version of the capture itself
RANK_KNOWN_BELOW = 32  # `gold_rank` says 32 for that or later
_ADDED: list[tuple[str, pa.DataType]] = [
    ("first", pa.int32()),
    ("id_ranks", IDS),  # [P*k] place of each id among those of its row group so far, by frequency
    ("steps", IDS),  # [P*k] a position's first step number, then what each adds to the one before
    ("tail_step", IDS),  # [P] 0 where nothing is left out, else 1 + the step number of its logarithm
    ("gold_rank", IDS),  # [P] as captured
    ("gold_elsewhere", FLOATS),  # log-probability of those gold tokens that are not among the kept ones
    ("logits", FLOATS),  # as captured
]
COMPACT = StageSchema(
    "capture", CAPTURE.version, pa.schema([*IDENTITY, *(pa.field(n, t, nullable=False) for n, t in _ADDED)])
)
Flat = tuple[NDArray[np.int64], NDArray[Any]]


def metadata(k: int) -> dict[str, str]:
    """Return what a compact shard's metadata say beside its columns (without the prefix `logitfuse.`)."""
    return {"stage": "capture", "version": str(CAPTURE.version), "codec": f"compact-{COMPACT_VERSION}", "k": str(k)}


def kept_tokens(schema: pa.Schema, where: str) -> int | None:
    """Return a compact shard's k from its Parquet schema, None for a plain one; raise `ShardCorrupt` if unknown."""
    found = schema.metadata or {}
    if CODEC not in found:
        return None
    if found[CODEC] != f"compact-{COMPACT_VERSION}".encode():
        raise ShardCorrupt(
            f"{where}: its codec is {found[CODEC].decode()}, this logitfuse knows compact-{COMPACT_VERSION}. "
            "Upgrade logitfuse, or capture it again."
        )
    return int(found[KEPT])


def encode_batch(batch: pa.RecordBatch, k: int) -> pa.RecordBatch:
    """Return a batch of `COMPACT` rows, one row group, from a batch of `CAPTURE` rows with k tokens per position.

    Raises `BadInput` where the rows do not hold k tokens per position, best first.
    """
    flat = {name: _flat(batch, name) for name in ("ids", "logprobs", "tail", "gold_logprob", "gold_rank", "logits")}
    positions_C, tail_P = flat["tail"]
    try:
        numbers_PK = step_numbers(flat["logprobs"][1].reshape(len(tail_P), k), finest_step(k))
        steps_PK = differences(numbers_PK)
    except ValueError as error:
        where = batch.column("doc_id")[0].as_py() if batch.num_rows else None
        raise BadInput(f"near document {where!r}: {error}. Is this a capture with k = {k}?") from error
    elsewhere_P = _elsewhere(flat["gold_rank"][1], k)
    return _batch(batch, COMPACT.arrow, {
        "id_ranks": (positions_C * k, frequency_ranks(flat["ids"][1])),
        "steps": (positions_C * k, steps_PK.ravel()),
        "tail_step": (positions_C, _tail_steps(tail_P, k)),
        "gold_rank": flat["gold_rank"],
        "gold_elsewhere": (_count_before(elsewhere_P)[positions_C], flat["gold_logprob"][1][elsewhere_P]),
        "logits": flat["logits"],
    })  # fmt: skip


def decode_batch(batch: pa.RecordBatch, k: int) -> pa.RecordBatch:
    """Undo `encode_batch` up to the rounding; the batch must be a whole row group."""
    flat = {name: _flat(batch, name) for name, kind in _ADDED if name != "first"}
    positions_C, tail_P = flat["tail_step"]
    finest, rank_P = finest_step(k), flat["gold_rank"][1]
    logprobs_PK = step_values(sums(flat["steps"][1].reshape(len(tail_P), k)), finest)
    elsewhere_P = _elsewhere(rank_P, k)
    gold_P = np.empty(len(tail_P), np.float32)
    gold_P[elsewhere_P] = flat["gold_elsewhere"][1]
    gold_P[~elsewhere_P] = logprobs_PK[np.flatnonzero(~elsewhere_P), rank_P[~elsewhere_P]]
    left_out_P = np.exp(step_values(np.maximum(tail_P - 1, 0), finest).astype(np.float64))
    return _batch(batch, CAPTURE.arrow, {
        "ids": (positions_C * k, ids_of_ranks(flat["id_ranks"][1])),
        "logprobs": (positions_C * k, logprobs_PK.ravel()),
        "tail": (positions_C, np.where(tail_P == 0, 0.0, left_out_P).astype(np.float32)),
        "gold_logprob": (positions_C, gold_P),
        "gold_rank": flat["gold_rank"],
        "logits": flat["logits"],
    })  # fmt: skip


def read_compact_batches(path: Path, columns: Sequence[str] | None, rows: int = 64) -> Iterator[pa.RecordBatch]:
    """Yield record batches of `CAPTURE` columns from a compact shard, of `rows` rows all but the last.

    One row group is in memory at a time. Raises `ShardCorrupt` for a shard of another codec.
    """
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetFile(path) as file:
        k = kept_tokens(file.schema_arrow, str(path))
        if k is None:
            raise ShardCorrupt(f"{path}: it is not a compact capture shard. Read it as a plain one.")
        for group in range(file.num_row_groups):
            whole = pa.concat_batches(file.read_row_group(group).to_batches())
            decoded = decode_batch(whole, k)
            waiting.append(decoded.select(list(columns)) if columns else decoded)
            while sum(batch.num_rows for batch in waiting) >= rows:
                together = pa.concat_batches(waiting)
                yield together[:rows]
                waiting = [together[rows:]]
    if sum(batch.num_rows for batch in waiting):
        yield pa.concat_batches(waiting)


def _elsewhere(rank_P: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """Return where the gold token's log-probability is not one of the kept ones."""
    return rank_P >= min(k, RANK_KNOWN_BELOW)


def _tail_steps(tail_P: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    with np.errstate(divide="ignore"):
        logs_P = np.where(tail_P > 0, np.log(tail_P.astype(np.float64)), 0.0)
    return np.where(tail_P > 0, 1 + step_numbers(logs_P, finest_step(k)), 0).astype(np.int32)


def _count_before(chosen_P: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(chosen_P, dtype=np.int64)])


def _flat(batch: pa.RecordBatch, column: str) -> Flat:
    """Return a list column's offsets [C+1], from 0, and its values."""
    array = batch.column(column)
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]


def _batch(given: pa.RecordBatch, schema: pa.Schema, lists: dict[str, Flat]) -> pa.RecordBatch:
    """Return a batch of a schema: `lists` as (offsets, values), all else as in the given batch."""
    arrays = []
    for field in schema:
        if field.name in lists:
            offsets, values = lists[field.name]
            flat = pa.array(values.astype(field.type.value_type.to_pandas_dtype(), copy=False))
            arrays.append(pa.ListArray.from_arrays(list_offsets(offsets, field.name), flat, type=field.type))
        else:
            arrays.append(given.column(field.name))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
