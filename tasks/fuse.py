"""Stage fuse: the sources' aligned distributions become one, and the target's training rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels
from logitfuse.kernels.scores import Scored, nats_over_identical_bytes
from logitfuse.kernels.sparse import Sparse, concatenate, to_half_precision
from logitfuse.storage.schemas import FUSE
from logitfuse.storage.settings import Settings
from logitfuse.storage.shards import Rows, rows_together, verified_path, writing_rows
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.strategy import checked_options, strategy_field
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run


class FuseSettings(Settings):
    """How the sources become one target distribution."""

    model_config = {"title": "Fuse"}

    rule: str = strategy_field(
        FUSIONS,
        "min_ce",
        "Fusion rule",
        "min_ce keeps the source that predicts the document best; avg_ce averages all of them.",
    )
    options: dict[str, Any] = Field({}, title="Options of the rule", description="Keyword options of the chosen rule.")

    @field_validator("rule")
    @classmethod
    def _is_known(cls, name: str) -> str:
        FUSIONS.get(name)
        return name

    @model_validator(mode="after")
    def _options_fit(self) -> FuseSettings:
        checked_options(FUSIONS, self.rule, self.options)
        return self


def units(run: Run) -> list[Unit]:
    """One unit per shard."""
    return [Unit("fuse", None, shard) for shard in run.shard_numbers]


def work(run: Run, unit: Unit) -> Work:
    """Describe the fusion of one shard."""
    target, teachers = run.target, run.teachers
    prepared = run.prepared(unit.needed_shard)
    shards: dict[str, tuple[Record, list[str]]] = {
        "prepare": (prepared, ["split", "domain"]),
        "encode": (run.record(Unit("encode", target.tokenizer_label, unit.shard)), ["last", "ids"]),
    }
    for label, source in teachers.items():
        encoded = run.record(Unit("encode", source.tokenizer_label, unit.shard))
        shards[f"encode/{label}"] = (encoded, ["ends"])
        captured = run.record(Unit("capture", label, unit.shard))
        shards[f"capture/{label}"] = (captured, ["first", "gold_logprob"])
        aligned = run.record(Unit("align", label, unit.shard))
        shards[f"align/{label}"] = (aligned, ["counts", "ids", "logprobs"])

    def compute(path: Path, progress: Progress) -> Counts:
        files = {name: (verified_path(run.store, record), columns) for name, (record, columns) in shards.items()}
        return fuse_shard(files, target, list(teachers), run.recipe.fuse, prepared.counts["chunks"], path, progress)

    return Work(
        stage="fuse",
        place="fuse",
        name=unit.part,
        shard=unit.shard,
        compute=compute,
        settings=run.recipe.fuse,
        inputs=tuple(record for record, _ in shards.values()),
        fingerprints={"target": [target.start_id, target.end_id], "sources": list(teachers)},
    )


@dataclass(frozen=True)
class ChunkToFuse:
    """One chunk with all that its fusion needs; lists have one entry per source."""

    identity: dict[str, Any]
    split: str
    domain: str
    inputs: NDArray[np.int32]
    labels: NDArray[np.int32]
    aligned: list[Sparse]
    scored: list[Scored]


def fuse_shard(
    files: dict[str, tuple[Path, list[str]]],
    target: Source,
    labels: list[str],
    settings: FuseSettings,
    chunks: int,
    path: Path,
    progress: Progress,
) -> Counts:
    """Fuse one shard document by document; return served positions, and how often each source won."""
    counts: Counts = {"chunks": 0, "positions": 0, "served": 0, "mass": 0.0, "documents": 0}
    counts["weight"] = dict.fromkeys(labels, 0.0)
    with writing_rows(path, FUSE) as add:
        for document in _documents(_read_chunks(files, target, labels)):
            fused, weights_S, scores_S = fuse_document(document, settings)
            counts["documents"] += 1
            for label, weight in zip(labels, weights_S, strict=True):
                counts["weight"][label] += float(weight)
            for chunk, rows in zip(document, fused, strict=True):
                add(_row(chunk, rows, weights_S, scores_S))
                counts["chunks"] += 1
                counts["positions"] += len(rows)
                counts["served"] += int((rows.counts > 0).sum())
                counts["mass"] += float(rows.mass.sum())
            progress(counts["chunks"], chunks)
    return counts


def fuse_document(
    document: list[ChunkToFuse], settings: FuseSettings
) -> tuple[list[Sparse], NDArray[np.float64], NDArray[np.float64]]:
    """Return the fused rows of each chunk, the sources' weights [S], and their scores [S] in nats per byte."""
    rule = FUSIONS.get(settings.rule)
    options = checked_options(FUSIONS, settings.rule, settings.options)
    scores_S = document_scores(document)
    sources = [concatenate([chunk.aligned[s] for chunk in document]) for s in range(len(scores_S))]
    lengths = [len(chunk.inputs) for chunk in document]
    scores_ST = np.repeat(scores_S[:, None], max(sum(lengths), 1), axis=1)
    if sum(lengths) == 0:
        return [Sparse.empty(0) for _ in document], np.zeros(len(scores_S)), scores_S
    fused, weights_ST = rule(sources, scores_ST, **options)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    return [fused.take(a, b) for a, b in pairwise(borders)], weights_ST[:, 0], scores_S


def document_scores(document: list[ChunkToFuse]) -> NDArray[np.float64]:
    """Return each source's nats per byte [S] on the document, over bytes that all of them predict; inf if none."""
    nats_S, total_bytes = np.zeros(len(document[0].scored)), 0
    for chunk in document:
        nats, shared = nats_over_identical_bytes(chunk.scored)
        nats_S += nats
        total_bytes += shared
    return nats_S / total_bytes if total_bytes else np.full(len(nats_S), np.inf)


def _read_chunks(files: dict[str, tuple[Path, list[str]]], target: Source, labels: list[str]) -> Iterator[ChunkToFuse]:
    for views, row in rows_together(files):
        end = target.end_id if views["encode"].value("last", row) else None
        inputs, gold = inputs_and_labels(views["encode"].values("ids", row), start=target.start_id, end=end)
        yield ChunkToFuse(
            views["prepare"].identity(row),
            views["prepare"].value("split", row),
            views["prepare"].value("domain", row),
            inputs,
            gold,
            [_aligned(views[f"align/{label}"], row) for label in labels],
            [scored(views[f"encode/{label}"], views[f"capture/{label}"], row) for label in labels],
        )


def _aligned(view: Rows, row: int) -> Sparse:
    return Sparse.from_counts(*(view.values(column, row) for column in ("counts", "ids", "logprobs")))


def scored(encoded: Rows, captured: Rows, row: int) -> Scored:
    """Return the text tokens of one chunk that a source scored; the end token's position is left out."""
    ends = encoded.values("ends", row).astype(np.int64)
    first, gold = captured.value("first", row), captured.values("gold_logprob", row)
    count = max(min(len(gold), len(ends) - first), 0)
    return Scored(consumed_bytes(ends, first, count), ends[first : first + count], -gold[:count].astype(np.float64))


def _documents(chunks: Iterator[ChunkToFuse]) -> Iterator[list[ChunkToFuse]]:
    """Group the chunks of each document; they follow one another and never leave their shard."""
    document: list[ChunkToFuse] = []
    for chunk in chunks:
        if document and document[0].identity["doc_id"] != chunk.identity["doc_id"]:
            yield document
            document = []
        document.append(chunk)
    if document:
        yield document


def _row(
    chunk: ChunkToFuse, rows: Sparse, weights_S: NDArray[np.float64], scores_S: NDArray[np.float64]
) -> dict[str, Any]:
    return {
        **chunk.identity,
        "split": chunk.split,
        "domain": chunk.domain,
        "inputs": chunk.inputs,
        "labels": chunk.labels,
        "counts": rows.counts,
        "ids": rows.ids,
        "logprobs": to_half_precision(np.log(rows.probs)),
        "mass": rows.mass,
        "weights": weights_S,
        "scores": np.where(np.isfinite(scores_S), scores_S, np.nan),
    }
