"""Capture shards without a model: plausible top-k distributions that nobody predicted, in the real schema.

For measuring the stages around capture on more text than a model could read here. What is made is marked: the key's
model is "stub", so is a mark in the file's metadata, and no run with models ever takes it for its own.

legend: C chunks, P positions, K kept tokens, V vocabulary, R ready-made rows
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.kernels.positions import inputs_and_labels
from logitfuse.storage.records import Record
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import IDENTITY_COLUMNS, Rows, ShardWriter, read_batches, verified_path
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

READY = 1 << 15
COLUMNS = [*IDENTITY_COLUMNS, "last", "ids"]
# How often the true token is the likeliest, the second, ...; the rest lies outside the kept ones.
RANK_SHARES = (0.42, 0.12, 0.06, 0.04, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01)
BEYOND = 32  # the rank that stands for "or later"


class StubRun(Run):
    """A run whose captures are stubs; the rest is as it is."""

    def work(self, unit: Unit) -> Work:
        """Describe one unit; that of a capture needs no model."""
        work = super().work(unit)
        return stubbed(self, unit, work) if unit.stage == "capture" else work


def stubbed(run: Run, unit: Unit, work: Work) -> Work:
    """Return the capture of a shard with a stub in the model's place, in its key too."""
    source, k = run.teachers[unit.needed_source], run.recipe.capture.k
    encoded = run.record(Unit("encode", source.tokenizer_label, unit.shard))

    def compute(path: Path, progress: Progress) -> Counts:
        stub = StubModel(source.vocabulary.size, k, seed=[unit.needed_shard, source.vocabulary.size])
        return stub_shard(stub, verified_path(run.store, encoded), encoded, source, path, progress)

    return replace(work, compute=compute, fingerprints=work.fingerprints | {"model": "stub", "dtype": "none"})


class StubModel:
    """Draws top-k distributions from ready-made rows; the true token takes a plausible place among them."""

    def __init__(self, size: int, k: int, seed: list[int]) -> None:
        self._rng = np.random.default_rng(seed)
        fixed = np.random.default_rng([size, k])
        self._ids_RK = _different_ids(fixed, size, k)
        sharpness_R1 = fixed.gamma(2.0, 0.7, (READY, 1)) + 0.3
        weights_RK = np.arange(1, k + 1) ** -sharpness_R1 * fixed.uniform(0.8, 1.0, (READY, k))
        kept_R1 = fixed.beta(6, 1.5, (READY, 1)).clip(0.01, 0.99)
        probs_RK = -np.sort(-weights_RK / weights_RK.sum(axis=1, keepdims=True) * kept_R1, axis=1)
        self._logprobs_RK = np.log(probs_RK).astype(np.float16).astype(np.float32)
        shares = np.array(RANK_SHARES[:k])
        self._rank_borders = np.cumsum(shares)

    def predict(self, inputs_P: NDArray[np.int32], labels_P: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        """Return ids and logprobs [P, K], tail, gold_logprob and gold_rank [P]; all positions have a label."""
        size, k = len(labels_P), self._ids_RK.shape[1]
        rows_P = (inputs_P.astype(np.int64) * 40503 + self._rng.integers(0, 8, size)) % READY
        ids_PK, logprobs_PK = self._ids_RK[rows_P], self._logprobs_RK[self._rng.integers(0, READY, size)]
        wanted_P = np.searchsorted(self._rank_borders, self._rng.random(size))
        at_P = np.arange(size)
        found_PK = ids_PK == labels_P[:, None]
        there_P = np.where(found_PK.any(axis=1), found_PK.argmax(axis=1), k - 1)
        outside_P = (wanted_P >= len(self._rank_borders)) & ~found_PK.any(axis=1)
        rank_P = np.where(wanted_P >= len(self._rank_borders), there_P, wanted_P)
        # Swapped with the one it displaces, so that no id comes twice; a stranger displaces the last.
        inside_P = at_P[~outside_P]
        rank, there = rank_P[inside_P], there_P[inside_P]
        ids_PK[inside_P, there] = ids_PK[inside_P, rank]
        ids_PK[inside_P, rank] = labels_P[inside_P]
        tail_P = np.clip(1 - np.exp(logprobs_PK).sum(axis=1), 1e-6, 1).astype(np.float32)
        beyond_P = np.log(tail_P * self._rng.uniform(0.001, 0.3, size))
        gold_P = np.where(outside_P, beyond_P, logprobs_PK[at_P, rank_P])
        return {
            "ids": ids_PK,
            "logprobs": logprobs_PK,
            "tail": tail_P,
            "gold_logprob": gold_P.astype(np.float16).astype(np.float32),
            "gold_rank": np.where(outside_P, BEYOND, rank_P).astype(np.int32),
        }


def _different_ids(rng: np.random.Generator, size: int, k: int) -> NDArray[np.int32]:
    """Return ids [R, K], in no row one twice, low ids more often than high ones."""
    ids_RK = (size * rng.random((READY, k)) ** 3).astype(np.int32)
    for row in range(READY):
        while len(set(ids_RK[row].tolist())) < k:
            ids_RK[row] = (size * rng.random(k) ** 3).astype(np.int32)
    return ids_RK


def stub_shard(
    stub: StubModel, encoded_path: Path, encoded: Record, source: Source, path: Path, progress: Progress
) -> Counts:
    """Write one shard of stub predictions; return what was counted."""
    counts: Counts = {"chunks": 0, "positions": 0, "beyond_context": 0, "nats": 0.0}
    metadata = {"stage": CAPTURE.stage, "version": str(CAPTURE.version), "stub": "no model predicted this"}
    writer = ShardWriter(path, CAPTURE, metadata)
    first = 0 if source.start_id is not None else 1
    try:
        for batch in read_batches(encoded_path, COLUMNS):
            columns, found = _columns(stub, batch, source)
            writer.write(
                {name: batch.column(name) for name in IDENTITY_COLUMNS}
                | {"first": pa.array([first] * batch.num_rows, pa.int32())}
                | columns
            )
            for name, value in found.items():
                counts[name] += value
            progress(counts["chunks"], encoded.counts["chunks"])
    finally:
        writer.close()
    return counts


def _columns(stub: StubModel, batch: pa.RecordBatch, source: Source) -> tuple[dict[str, pa.Array], Counts]:
    """Return the lists of a batch of chunks, and what was counted."""
    rows = Rows(batch)
    passages, beyond = [], 0
    for row in range(len(rows)):
        end = source.end_id if rows.value("last", row) else None
        inputs, labels = inputs_and_labels(rows.values("ids", row), start=source.start_id, end=end)
        passages.append((inputs[: source.context], labels[: source.context]))
        beyond += max(len(inputs) - source.context, 0)
    offsets = np.concatenate([[0], np.cumsum([len(inputs) for inputs, _ in passages])])
    found = stub.predict(*(np.concatenate(parts) for parts in zip(*passages, strict=True)))
    k = found["ids"].shape[1]
    none = np.zeros_like(offsets)
    lists = {name: _lists(name, offsets * (k if values.ndim == 2 else 1), values) for name, values in found.items()}
    lists["logits"] = _lists("logits", none, np.zeros(0, np.float32))
    if "counts" in CAPTURE.arrow.names:
        lists["counts"] = _lists("counts", offsets, np.full(offsets[-1], k, np.int32))
    if "draws" in CAPTURE.arrow.names:
        lists["draws"] = _lists("draws", none, np.zeros(0, np.int32))
    nats = -float(found["gold_logprob"].sum(dtype=np.float64))
    return lists, {"chunks": len(rows), "positions": int(offsets[-1]), "beyond_context": beyond, "nats": nats}


def _lists(name: str, offsets: NDArray[np.int64], values: NDArray[Any]) -> pa.Array:
    kind = CAPTURE.arrow.field(name).type
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values.ravel()), type=kind)
