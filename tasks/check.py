"""Stage check: is each source a sound model, read as it was trained? Asked before hours are spent on it.

A teacher fed without its bos token, with another model's tokenizer or in a dtype it cannot bear still predicts
something; it only predicts badly, and a whole capture later that looks like a fusion that does not work.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from logitfuse.kernels.positions import inputs_and_labels
from logitfuse.storage.errors import ModelRefused
from logitfuse.storage.settings import Settings
from logitfuse.storage.shards import read_batches, verified_path
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.evaluate import EvaluateSettings, score_batch
from logitfuse.tasks.models.vocabulary import encode_texts
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.models.causal import CausalModel
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

PLAIN_ENGLISH = (
    "The river rises in the mountains and flows south for two hundred miles before it reaches the sea. In the "
    "nineteenth century it carried coal and timber to the towns along its banks, and most of the people who lived "
    "there worked in the mills. Today the mills are museums, and the water is clean enough for trout."
)
SAMPLE_BYTES = 4000
MUCH_WORSE = 1.4  # times the nats per byte of the other way of starting


class CheckSettings(Settings):
    """What a sound model must reach."""

    model_config = {"title": "Check"}

    nats_per_byte: float | None = Field(
        1.5,
        gt=0,
        title="Sanity bound",
        description="Refuse a source that needs more than this many nats per byte for a paragraph of plain English; "
        "trained models need about 0.5 to 1. Empty: do not refuse, for models that know no English.",
    )
    unknown_ends: float = Field(
        0.2,
        ge=0,
        le=1,
        title="Tokens without a byte end",
        description="Refuse a tokenizer that cannot be traced to bytes for more than this share of a sample's tokens.",
    )


@dataclass(frozen=True)
class Findings:
    """What was found out about a source."""

    nats_per_byte: float  # plain English, with the start token that is set
    other_start: float | None  # the same with, or without, the bos token, whichever is not set
    corpus_nats_per_byte: float
    round_trip: bool  # decoding the ids of the sample gives it back
    unknown_ends: float  # share of the sample's tokens whose byte end is not known
    tokens: int
    batches: str  # how capture's batches are made by default: packed, or sorted by length and why


def units(run: Run) -> list[Unit]:
    """One unit per source."""
    return [Unit("check", label) for label in run.teachers]


def work(run: Run, unit: Unit) -> Work:
    """Describe the check of one source."""
    source = run.teachers[unit.needed_source]
    prepared = run.prepared(0)
    settings = run.recipe.check

    def compute(path: Path, progress: Progress) -> Counts:
        sample = read_sample(verified_path(run.store, prepared))
        findings = examine(run.loaded(source), source, sample)
        if problem := find_problem(findings, source, settings):
            raise ModelRefused(problem)
        path.write_text(json.dumps(asdict(findings), indent=1) + "\n")
        return {
            "sample_tokens": findings.tokens,
            "nats_per_byte": findings.nats_per_byte,
            "notes": [f"batches: {findings.batches}"],
        }

    return Work(
        stage="check",
        place=f"check/{unit.source}",
        name="model",
        suffix=".findings.json",
        compute=compute,
        settings=settings,
        inputs=(prepared,),
        fingerprints={
            "model": source.home.fingerprint,
            "tokenizer": source.vocabulary.fingerprint,
            "dtype": source.home.settings.dtype,
            "start": source.start_id,
        },
    )


def read_sample(prepared: Path) -> list[str]:
    """Return the first chunks of a shard, a few thousand bytes."""
    texts: list[str] = []
    for batch in read_batches(prepared, ["text"]):
        for text in batch.column("text").to_pylist():
            if sum(map(len, texts)) >= SAMPLE_BYTES:
                return texts
            if text:
                texts.append(text[:SAMPLE_BYTES])
    return texts


def examine(model: CausalModel, source: Source, sample: list[str]) -> Findings:
    """Measure a source on plain English and on a sample of the corpus."""
    encoded = encode_texts(source.tokenizer, source.vocabulary, sample)
    tokens = sum(len(ids) for ids, _ in encoded)
    unknown = sum(int((ends < 0).sum()) for _, ends in encoded)
    bos = source.vocabulary.roles.get("bos")
    other = (
        None if bos is None else nats_per_byte(model, source, [PLAIN_ENGLISH], None if source.start_id == bos else bos)
    )
    return Findings(
        nats_per_byte(model, source, [PLAIN_ENGLISH], source.start_id),
        other,
        nats_per_byte(model, source, sample, source.start_id) if sample else 0.0,
        all(_round_trips(source, text, ids) for text, (ids, _) in zip(sample, encoded, strict=True)),
        unknown / max(tokens, 1),
        tokens,
        f"sorted by length: {model.packing.why_not}" if model.packing.why_not else "packed",
    )


def nats_per_byte(model: CausalModel, source: Source, texts: list[str], start: int | None) -> float:
    """Return a model's nats per byte on texts, each alone."""
    nats, size = 0.0, 0
    for text, (ids, _) in zip(texts, encode_texts(source.tokenizer, source.vocabulary, texts), strict=True):
        inputs, labels = inputs_and_labels(ids[: source.context - 1], start=start, end=None)
        if len(inputs):
            (scored,) = score_batch(model, [(inputs, labels)], EvaluateSettings())
            nats += float(scored.sum(dtype=np.float64))
            size += len(text.encode())
    return nats / max(size, 1)


def find_problem(found: Findings, source: Source, settings: CheckSettings) -> str | None:
    """Return what is wrong with a source and what to do, None if nothing is."""
    name, here = f"source {source.label!r}", f"{found.nats_per_byte:.2f} nats per byte on plain English"
    if found.unknown_ends > settings.unknown_ends:
        return (
            f"{name}: {found.unknown_ends:.0%} of its tokens cannot be traced to bytes of the text, so its predictions "
            "could not be aligned. Its tokenizer changes the text (lower-casing, accents); use another model, or raise "
            "check.unknown_ends."
        )
    if settings.nats_per_byte is None:
        return None
    if not np.isfinite(found.nats_per_byte):
        return f"{name}: its predictions are not finite. Set its dtype to float32, or fetch its weights again."
    if found.other_start is not None and found.nats_per_byte > MUCH_WORSE * found.other_start:
        better = "without its start token" if source.start_id is not None else "after its bos token"
        wanted = "none" if source.start_id is not None else "bos"
        return f"{name}: {here}, but {found.other_start:.2f} {better}. Set its start to '{wanted}'."
    if found.nats_per_byte > settings.nats_per_byte:
        return (
            f"{name}: {here}, where a trained model needs less than {settings.nats_per_byte:g}. Most often the "
            "tokenizer is another model's, the weights are not whole, or the dtype is wrong (try float32). For a model "
            "that knows no English set check.nats_per_byte to null."
        )
    return None


def _round_trips(source: Source, text: str, ids: np.ndarray) -> bool:
    return source.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False) == text
