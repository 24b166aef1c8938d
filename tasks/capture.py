"""Stage capture: what a source model predicts at every position of the text, teacher-forced, kept as top-k."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from logitfuse.kernels.positions import NO_LABEL, inputs_and_labels
from logitfuse.kernels.sparse import to_half_precision
from logitfuse.kernels.topk import RANK_CAP, TopK, joined
from logitfuse.storage.errors import ModelRefused
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.settings import Settings
from logitfuse.storage.shards import Rows, read_batches, verified_path, writing_rows
from logitfuse.tasks.engine import MADE, Counts, Progress, Work
from logitfuse.tasks.models.causal import CausalModel, padded
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

COLUMNS = ["doc_id", "chunk", "text_hash", "last", "ids"]


class CaptureSettings(Settings):
    """What is kept of each source's predictions."""

    model_config = {"title": "Capture"}

    k: int = Field(10, ge=1, le=512, title="Top-k", description="Likeliest tokens kept at each position.")
    tokens_per_batch: int = Field(
        4096, ge=1, title="Tokens per batch", description="Upper bound of a forward pass, padding included."
    )
    window_chunks: int = Field(
        256, ge=1, title="Sorting window", description="Chunks sorted by length together, so that batches pad little."
    )
    head_positions: int = Field(
        128, ge=1, title="Head chunk", description="Positions whose logits exist at the same time."
    )
    raw_logits: bool = Field(
        False,
        title="Raw logits",
        description="Round logits to fp16 and keep those of the top k too, as the published code does. Needed where "
        "align keeps logits.",
    )
    past_end: bool = Field(
        False,
        title="Past the end",
        description="Also keep what is predicted after a document's end token, which matters where documents are "
        "packed into blocks (the published code).",
    )
    max_length: int | None = Field(
        None,
        ge=2,
        title="Longest input",
        description="Positions of a chunk that are captured, start and end tokens included; empty: as many as the "
        "model's context holds.",
    )


@dataclass(frozen=True)
class Passage:
    """One chunk as the source reads it: `inputs` [P] and what follows, `labels` [P]; cut to the source's context."""

    identity: dict[str, Any]
    first: int
    inputs: np.ndarray
    labels: np.ndarray
    beyond_context: int


def units(run: Run) -> list[Unit]:
    """One unit per source and shard."""
    return [Unit("capture", label, shard) for label in run.teachers for shard in run.shard_numbers]


def work(run: Run, unit: Unit) -> Work:
    """Describe the capture of one shard by one source."""
    source = run.teachers[unit.needed_source]
    encoded = run.record(Unit("encode", source.tokenizer_label, unit.shard))
    settings = run.recipe.capture

    def compute(path: Path, progress: Progress) -> Counts:
        passages = read_passages(verified_path(run.store, encoded), source, settings)
        return capture_shard(run.loaded(source), passages, encoded, settings, path, progress)

    return Work(
        stage="capture",
        place=f"capture/{unit.source}",
        name=unit.part,
        shard=unit.shard,
        compute=compute,
        settings=settings,
        inputs=(encoded,),
        fingerprints={
            "model": source.home.fingerprint,
            "dtype": source.home.settings.dtype,
            "start": source.start_id,
            "end": source.end_id,
        },
    )


def read_passages(encoded: Path, source: Source, settings: CaptureSettings) -> Iterator[Passage]:
    """Yield every chunk of a shard with the source's start and end tokens, cut to its context."""
    longest = min(source.context, settings.max_length or source.context)
    for batch in read_batches(encoded, COLUMNS):
        rows = Rows(batch)
        for row in range(len(rows)):
            end = source.end_id if rows.value("last", row) else None
            inputs, labels = inputs_and_labels(
                rows.values("ids", row), start=source.start_id, end=end, past_end=settings.past_end
            )
            kept = min(len(inputs), longest)
            first = 0 if source.start_id is not None else 1
            yield Passage(rows.identity(row), first, inputs[:kept], labels[:kept], len(inputs) - kept)


def capture_shard(
    model: CausalModel,
    passages: Iterator[Passage],
    encoded: Record,
    settings: CaptureSettings,
    path: Path,
    progress: Progress,
) -> Counts:
    """Run the source over one shard; return what was counted."""
    counts: Counts = {"chunks": 0, "positions": 0, "beyond_context": 0, "nats": 0.0}
    total, done, computed = encoded.counts["tokens"], 0, model.clock.seconds

    def advance(positions: int) -> None:
        nonlocal done
        done += positions
        progress(min(done, total), total)

    with writing_rows(path, CAPTURE) as add:
        for window in _windows(passages, settings.window_chunks):
            for passage, kept in zip(window, _capture_window(model, window, settings, advance), strict=True):
                add({**passage.identity, "first": passage.first, **kept})
                counts["chunks"] += 1
                counts["positions"] += len(passage.inputs)
                counts["beyond_context"] += passage.beyond_context
                counts["nats"] -= float(np.nansum(kept["gold_logprob"], dtype=np.float64))
    return counts | {MADE: {"model_seconds": round(model.clock.seconds - computed, 3)}}


def _windows(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    window: list[Passage] = []
    for passage in passages:
        window.append(passage)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def plan_batches(lengths: list[int], tokens_per_batch: int) -> list[list[int]]:
    """Group passages by length so that each padded batch stays within the budget; deterministic.

    Empty passages are in no batch; one that is longer than the budget is a batch of its own.
    """
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens_per_batch:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _capture_window(
    model: CausalModel, window: list[Passage], settings: CaptureSettings, advance: Callable[[int], None]
) -> list[dict[str, np.ndarray]]:
    kept: list[dict[str, np.ndarray]] = [_columns(_nothing(settings.k)) for _ in window]
    for batch in plan_batches([len(passage.inputs) for passage in window], settings.tokens_per_batch):
        for i, found in zip(batch, _capture_batch(model, [window[i] for i in batch], settings), strict=True):
            kept[i] = _columns(found)
            advance(len(found.tail_T))
    return kept


def _capture_batch(model: CausalModel, batch: list[Passage], settings: CaptureSettings) -> Iterator[TopK]:
    hidden_BTH = model.hidden(*padded([passage.inputs for passage in batch]))
    for row, passage in enumerate(batch):
        yield _capture_passage(model, hidden_BTH[row, : len(passage.inputs)], passage, settings)


def _capture_passage(model: CausalModel, hidden_PH: torch.Tensor, passage: Passage, settings: CaptureSettings) -> TopK:
    labels_P = torch.from_numpy(passage.labels.astype(np.int64)).to(hidden_PH.device)
    gold_P = labels_P.clamp_min(0)  # past the end there is no gold token; what stands for it is wiped below
    parts = []
    for start in range(0, len(gold_P), settings.head_positions):
        chunk = slice(start, start + settings.head_positions)
        part = model.topk(hidden_PH[chunk], gold_P[chunk], settings.k, raw_logits=settings.raw_logits)
        if not bool(torch.isfinite(part.logprobs_TK).all() and torch.isfinite(part.gold_logprob_T).all()):
            raise ModelRefused(
                f"document {passage.identity['doc_id']!r}, chunk {passage.identity['chunk']}: the model's logits are "
                "not finite. Try dtype float32 for this source, or check its weights."
            )
        parts.append(part)
    found = joined(parts)
    unlabelled_P = (labels_P == NO_LABEL).cpu()
    found.gold_logprob_T[unlabelled_P] = torch.nan
    found.gold_rank_T[unlabelled_P] = RANK_CAP
    return found


def _nothing(k: int) -> TopK:
    none, nones = torch.zeros(0), torch.zeros(0, k)
    return TopK(nones.int(), nones, none, none, none.int())


def _columns(found: TopK) -> dict[str, np.ndarray]:
    logits = np.zeros(0, np.float32) if found.logits_TK is None else found.logits_TK.numpy().ravel()
    return {
        "logits": logits,
        "ids": found.ids_TK.numpy().ravel(),
        "logprobs": to_half_precision(found.logprobs_TK.numpy()).ravel(),
        "tail": found.tail_T.numpy(),
        "gold_logprob": to_half_precision(found.gold_logprob_T.numpy()),
        "gold_rank": found.gold_rank_T.numpy(),
    }
