"""The compact codec of capture shards: the same rows in about two thirds of the bytes, still Parquet.

What is stored is in `COMPACT`, how it is computed in kernels/compact.py, what is lost here:
`logprobs`, `tail` and the gold token's log-probability where it is one of the kept move to the nearest step
(mean KL divergence at most 5e-6 nats, no log-probability by more than 1/32 nat, the sum of all by at most 0.0052);
all else comes back as it was. Ranks of ids start anew with each row group, which is therefore decoded whole.

Legend: C chunks, P positions, N kept tokens; k is the most tokens that a position keeps.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
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
from logitfuse.storage.compact_gold import Flat, gold, stored_gold
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.offsets import list_offsets
from logitfuse.storage.schemas import CAPTURE, FLOATS, IDENTITY, IDS, StageSchema

CODEC, MOST_KEPT = b"logitfuse.codec", b"logitfuse.k"
COMPACT_VERSION = 1  # of the codec; a shard's metadata hold it beside the version of the capture itself
_ADDED: list[tuple[str, pa.DataType]] = [
    ("first", pa.int32()),
    ("counts", IDS),  # [P] as captured
    ("id_ranks", IDS),  # [N] place of each id among those of its row group so far, by frequency
    ("steps", IDS),  # [N] a position's first step number, then what each adds to the one before
    ("draws", IDS),  # as captured
    ("tail_step", IDS),  # [P] 0 where nothing is left out, else 1 + the step number of its logarithm
    ("gold_rank", IDS),  # [P] as captured
    ("gold_stored", FLOATS),  # [P], or only of those gold tokens that are not among the kept ones
    ("logits", FLOATS),  # as captured
]
COMPACT = StageSchema(
    "capture", CAPTURE.version, pa.schema([*IDENTITY, *(pa.field(n, t, nullable=False) for n, t in _ADDED)])
)
_MADE_FROM = {
    "ids": ("id_ranks",),
    "logprobs": ("counts", "steps"),
    "tail": ("tail_step",),
    "gold_logprob": ("counts", "steps", "gold_rank", "gold_stored"),
}


def metadata(k: int) -> dict[str, str]:
    """Return what a compact shard's metadata say beside its columns (without the prefix `logitfuse.`)."""
    return {"stage": "capture", "version": str(CAPTURE.version), "codec": f"compact-{COMPACT_VERSION}", "k": str(k)}


def most_kept(schema: pa.Schema, where: str) -> int | None:
    """Return a compact shard's k from its Parquet schema, None for a plain one; raise `ShardCorrupt` if unknown."""
    found = schema.metadata or {}
    if CODEC not in found:
        return None
    if found[CODEC] != f"compact-{COMPACT_VERSION}".encode():
        raise ShardCorrupt(
            f"{where}: its codec is {found[CODEC].decode(errors='replace')[:80]}, this logitfuse knows "
            f"compact-{COMPACT_VERSION}. Upgrade logitfuse, or capture it again."
        )
    kept = found.get(MOST_KEPT, b"")
    if not (kept.isdigit() and 0 < len(kept) < 10):
        raise ShardCorrupt(f"{where}: it does not say how many tokens a position keeps at most. Capture it again.")
    return int(kept)


def stored_columns(columns: Collection[str]) -> list[str]:
    """Return the columns of `COMPACT` that hold what is asked for of `CAPTURE`."""
    return sorted({stored for name in columns for stored in _MADE_FROM.get(name, (name,))})


def encode_batch(batch: pa.RecordBatch, k: int) -> pa.RecordBatch:
    """Return a batch of `COMPACT` rows, one row group, from a batch of `CAPTURE` rows, at most k tokens a position.

    Raises `BadInput` where a position holds more than k tokens, or not best first.
    """
    flat = {name: _flat(batch, name) for name in ("counts", "ids", "logprobs", "tail", "gold_logprob", "gold_rank")}
    counts_P, logprobs_N = flat["counts"][1], flat["logprobs"][1]
    try:
        if counts_P.max(initial=0) > k or counts_P.sum(dtype=np.int64) != len(logprobs_N):
            raise ValueError(f"a position keeps {counts_P.max(initial=0)} tokens, of {len(logprobs_N)} in all")
        steps_N = differences(step_numbers(logprobs_N, finest_step(k)), counts_P)
    except ValueError as error:
        where = batch.column("doc_id")[0].as_py() if batch.num_rows else None
        raise BadInput(f"near document {where!r}: {error}. Is this a capture with k = {k}?") from error
    return _batch(batch, COMPACT.arrow, {
        "id_ranks": (flat["ids"][0], frequency_ranks(flat["ids"][1])),
        "steps": (flat["logprobs"][0], steps_N),
        "tail_step": (flat["tail"][0], _tail_steps(flat["tail"][1], k)),
        "gold_stored": stored_gold(flat),
    })  # fmt: skip


def decode_batch(
    batch: pa.RecordBatch, k: int, columns: Collection[str] = tuple(CAPTURE.arrow.names)
) -> pa.RecordBatch:
    """Undo `encode_batch` up to the rounding, for some columns; the batch must be a whole row group."""
    flat = {name: _flat(batch, name) for name in batch.schema.names if pa.types.is_list(batch.column(name).type)}
    lists: dict[str, Flat] = {}
    if "ids" in columns:
        lists["ids"] = flat["id_ranks"][0], ids_of_ranks(flat["id_ranks"][1])
    if "tail" in columns:
        left_out_P = np.exp(step_values(np.maximum(flat["tail_step"][1] - 1, 0), finest_step(k)).astype(np.float64))
        lists["tail"] = flat["tail_step"][0], np.where(flat["tail_step"][1] == 0, 0.0, left_out_P)
    if "logprobs" in columns or "gold_logprob" in columns:
        numbers_N = sums(flat["steps"][1], flat["counts"][1])
        lists["logprobs"] = flat["steps"][0], step_values(numbers_N, finest_step(k))
    if "gold_logprob" in columns:
        lists["gold_logprob"] = gold(flat, lists["logprobs"][1])
    wanted = pa.schema([field for field in CAPTURE.arrow if field.name in columns])
    return _batch(batch, wanted, lists)


def _tail_steps(tail_P: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    with np.errstate(divide="ignore"):
        logs_P = np.where(tail_P > 0, np.log(tail_P.astype(np.float64)), 0.0)
    return np.where(tail_P > 0, 1 + step_numbers(logs_P, finest_step(k)), 0).astype(np.int32)


def _flat(batch: pa.RecordBatch, column: str) -> Flat:
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
