"""Stage evaluate: how well a model predicts the held-out text, in nats per byte over identical bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels
from logitfuse.storage.errors import ModelRefused
from logitfuse.storage.schemas import EVALUATE
from logitfuse.storage.settings import Settings
from logitfuse.storage.shards import Rows, read_batches, verified_folder, verified_path, writing_rows
from logitfuse.tasks.arms import pair_arms
from logitfuse.tasks.computed_on import computed_on
from logitfuse.tasks.engine import MADE, Counts, Progress, Work
from logitfuse.tasks.ensemble import ENSEMBLE, Mixing, ensemble_work
from logitfuse.tasks.merge import base_of
from logitfuse.tasks.merge_settings import MERGED, merges
from logitfuse.tasks.models.causal import padded
from logitfuse.tasks.models.home import ModelHome
from logitfuse.tasks.models.vocabulary import encode_texts
from logitfuse.tasks.passages import plan_batches
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.causal import CausalModel
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

COLUMNS = ["doc_id", "chunk", "text_hash", "text", "domain", "split"]


class EvaluateSettings(Settings):
    """What the models are compared on."""

    model_config = {"title": "Evaluate"}

    split: Literal["validation", "test"] = Field(
        "validation", title="Split", description="Held-out part; keep test for the last, locked comparison."
    )
    chunks_per_document: int | None = Field(
        None,
        ge=1,
        title="Chunks of each document",
        description="Only this many chunks from a document's start are scored, so that many documents cost little; "
        "empty: all of them.",
    )
    documents_per_domain: int | None = Field(
        None,
        ge=1,
        title="Documents of each domain",
        description="Only this many documents of each domain are scored, the first ones in the corpus's order; empty: "
        "all of them.",
    )
    tokens_per_batch: int = Field(
        2048, ge=1, title="Tokens per batch", description="Upper bound of a forward pass, padding included."
    )
    head_positions: int = Field(
        128, ge=1, title="Head chunk", description="Positions whose logits exist at the same time."
    )
    ensemble: Mixing = Field(
        "none",
        title="Ensemble",
        description="Also evaluate a mixture of target and sources as they came, over the text between byte "
        "boundaries that all of them share. mean: with fixed weights. bayes: weighed by the document so far.",
    )
    ensemble_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {},
        title="Weights of the ensemble",
        description="Weight of a model by its name, 1 where not given; 0 leaves it out. With bayes what a document "
        "begins with.",
    )


def model_settings(settings: EvaluateSettings) -> EvaluateSettings:
    """Return the settings without what concerns the ensemble: no model's own scores depend on it."""
    return settings.model_copy(update={"ensemble": "none", "ensemble_weights": {}})


@dataclass(frozen=True)
class Contestant:
    """A model to be evaluated and the part it plays."""

    role: Literal["target", "source", "base", "ensemble", "control", "pair", "merged", "fused"]
    label: str


def contestants(run: Run) -> list[Contestant]:
    """Return the models of a run in the order of its tables; the trained ones carry their arm's name."""
    sources = [label for label in run.teachers if label != run.target.label]
    return [
        Contestant("target", run.target.label),
        *(Contestant("source", label) for label in sources),
        *(Contestant("base", base) for base in bases(run)),
        *([Contestant("ensemble", ENSEMBLE)] if run.recipe.evaluate.ensemble != "none" else []),
        *([Contestant("control", "control")] if run.recipe.train.control else []),
        *(Contestant("pair", arm) for arm in pair_arms(run.recipe)),
        *([Contestant("merged", MERGED)] if merges(run.recipe) else []),
        Contestant("fused", "fused"),
    ]


def bases(run: Run) -> dict[str, Source]:
    """Return the models that are adapted, as they were given, by the label they have in tables."""
    return {f"{label}-base": model for label, model in run.given.items() if model.home.settings.adapt is not None}


def units(run: Run) -> list[Unit]:
    """One unit per model."""
    return [Unit("evaluate", contestant.label) for contestant in contestants(run)]


def work(run: Run, unit: Unit) -> Work:
    """Describe the evaluation of one model on the held-out text."""
    if unit.source == ENSEMBLE and run.recipe.evaluate.ensemble != "none":
        return ensemble_work(run, unit)
    source, made_by = model_of(run, unit.needed_source)
    settings = run.recipe.evaluate
    shards = [record for record in run.shards if record.counts["splits"].get(settings.split)]

    def compute(path: Path, progress: Progress) -> Counts:
        texts = held_out_texts((verified_path(run.store, record) for record in shards), settings)
        model = run.loaded(source)
        try:
            return evaluate_model(model, source, texts, settings, path, progress)
        finally:
            run.unload()

    return Work(
        stage="evaluate",
        place=f"evaluate/{source.label}",  # of a base, where the result stands that it has without adapting
        name="held-out",
        compute=compute,
        settings=model_settings(settings),
        inputs=(*shards, *made_by),
        fingerprints={
            "model": source.home.fingerprint,
            "tokenizer": source.vocabulary.fingerprint,
            "dtype": source.home.settings.dtype,
            "start": source.start_id,
        },
    )


def model_of(run: Run, label: str) -> tuple[Source, tuple[Record, ...]]:
    """Return a contestant's model, and the records of the stage that made it; raises `ShardMissing` before that."""
    if base := bases(run).get(label):
        return base, ()
    if label in run.given:
        return run.model(label), ()
    model = run.target
    if label == MERGED and merges(run.recipe):
        model, record = base_of(run), run.record(Unit("merge", MERGED))
    else:
        record = run.record(Unit("train", label))
    settings = model.home.settings.model_copy(update={"name": label})
    return replace(model, home=ModelHome(settings, partial(verified_folder, run.store, record), record.checksum)), (
        record,
    )


def held_out_texts(prepared: Iterable[Path], settings: EvaluateSettings) -> Iterator[dict[str, Any]]:
    """Yield the chunks of prepared shards that are scored, document after document."""
    taken: dict[str, set[str]] = defaultdict(set)
    chunks, most = settings.chunks_per_document, settings.documents_per_domain
    for row in (row for path in prepared for row in read_texts(path, settings.split)):
        documents = taken[row["domain"]]
        if most is None or row["doc_id"] in documents or len(documents) < most:
            documents.add(row["doc_id"])
            if chunks is None or row["chunk"] < chunks:
                yield row


def read_texts(prepared: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the chunks of one split of a prepared shard."""
    for batch in read_batches(prepared, COLUMNS):
        rows = Rows(batch)
        for row in range(len(rows)):
            if rows.value("split", row) == split:
                yield {column: rows.value(column, row) for column in COLUMNS}


def evaluate_model(
    model: CausalModel,
    source: Source,
    texts: Iterator[dict[str, Any]],
    settings: EvaluateSettings,
    path: Path,
    progress: Progress,
) -> Counts:
    """Score every held-out chunk; write -log p of each token with the byte it ends at."""
    rows = list(texts)  # the held-out part is small by construction
    encoded = encode_texts(source.tokenizer, source.vocabulary, [row["text"] for row in rows])
    passages = [inputs_and_labels(ids, start=source.start_id, end=None) for ids, _ in encoded]
    passages = [(inputs[: source.context], labels[: source.context]) for inputs, labels in passages]
    nats: list[np.ndarray] = [np.zeros(0, np.float32) for _ in rows]
    total, done = sum(len(inputs) for inputs, _ in passages), 0
    computed = model.clock.seconds
    for batch in plan_batches([len(inputs) for inputs, _ in passages], settings.tokens_per_batch):
        for i, scored in zip(batch, score_batch(model, [passages[i] for i in batch], settings), strict=True):
            if not np.isfinite(scored).all():
                raise _not_finite(source, rows[i])
            nats[i] = scored
            done += len(scored)
            progress(done, total)
    first = 0 if source.start_id is not None else 1
    with writing_rows(path, EVALUATE) as add:
        for row, (_, ends), chunk_nats in zip(rows, encoded, nats, strict=True):
            begin = int(consumed_bytes(ends, first, 1)[0]) if len(chunk_nats) else 0
            scored_ends = ends[first : first + len(chunk_nats)]
            size = len(row.pop("text").encode())
            add({**row, "bytes": size, "begin": begin, "ends": scored_ends, "nats": chunk_nats})
    counts: Counts = {"chunks": len(rows), "tokens": total}
    counts["nats"] = float(sum(n.sum(dtype=np.float64) for n in nats))
    plan = {"tokens_per_batch": settings.tokens_per_batch, "head_positions": settings.head_positions}
    seconds = round(model.clock.seconds - computed, 3)
    return counts | {MADE: {"model_seconds": seconds, "batch_plan": plan, **computed_on(model)}}


def _not_finite(source: Source, row: dict[str, Any]) -> ModelRefused:
    return ModelRefused(
        f"model {source.label!r}: document {row['doc_id']!r}, chunk {row['chunk']}: its loss is not finite. Set its "
        "dtype to float32; of a model that was trained here, look at the losses of its training."
    )


def score_batch(
    model: CausalModel, batch: list[tuple[np.ndarray, np.ndarray]], settings: EvaluateSettings
) -> Iterator[np.ndarray]:
    """Yield -log p of the labels of each passage, float32 [P]."""
    hidden_BTH = model.hidden(*padded([inputs for inputs, _ in batch]))
    for row, (inputs, labels) in enumerate(batch):
        hidden_PH = hidden_BTH[row, : len(inputs)]
        gold_P = torch.from_numpy(labels.astype(np.int64)).to(hidden_PH.device)
        parts = []
        for start in range(0, len(labels), settings.head_positions):
            chunk = slice(start, start + settings.head_positions)
            parts.append(-model.gold_logprobs(hidden_PH[chunk], gold_P[chunk]))
        yield torch.cat(parts).float().cpu().numpy()
