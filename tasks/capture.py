"""Stage capture: what a source model predicts at every position of the text, teacher-forced, kept in part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitfuse.kernels.rounding import round_logprobs, round_mass
from logitfuse.kernels.topk import TopK
from logitfuse.storage.background import in_background
from logitfuse.storage.capture_rows import writing_capture
from logitfuse.storage.errors import ModelRefused
from logitfuse.storage.shards import verified_path
from logitfuse.tasks.capture_loop import Fitting, captured, head_positions, in_order
from logitfuse.tasks.capture_settings import CaptureSettings, key_settings
from logitfuse.tasks.computed_on import computed_on
from logitfuse.tasks.engine import MADE, Counts, Progress, Work
from logitfuse.tasks.passages import Batch, Passage, packed_batches, read_passages, require_own_ids, sorted_batches
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.causal import CausalModel
    from logitfuse.tasks.run import Run


def units(run: Run) -> list[Unit]:
    """One unit per source and shard."""
    return [Unit("capture", label, shard) for label in run.teachers for shard in run.shard_numbers]


def work(run: Run, unit: Unit) -> Work:
    """Describe the capture of one shard by one source."""
    source = run.model(unit.needed_source)
    encoded = run.record(Unit("encode", source.tokenizer_label, unit.shard))
    settings = run.recipe.capture

    def compute(path: Path, progress: Progress) -> Counts:
        require_own_ids(encoded, source)
        passages = read_passages(
            verified_path(run.store, encoded), source, max_length=settings.max_length, past_end=settings.past_end
        )
        return capture_shard(run.loaded(source), passages, encoded, settings, path, progress)

    return Work(
        stage="capture",
        place=f"capture/{unit.source}",
        name=unit.part,
        shard=unit.shard,
        compute=compute,
        settings=key_settings(settings),
        inputs=(encoded,),
        fingerprints={
            "model": source.home.fingerprint,
            "dtype": source.home.settings.dtype,
            "start": source.start_id,
            "end": source.end_id,
        },
    )


def capture_shard(
    model: CausalModel,
    passages: Iterable[Passage],
    encoded: Record,
    settings: CaptureSettings,
    path: Path,
    progress: Progress,
) -> Counts:
    """Run the source over one shard; return what was counted."""
    packed = packs(model, settings)
    fitting = Fitting(head_positions(model, settings))
    counts: Counts = {"chunks": 0, "positions": 0, "kept": 0, "beyond_context": 0, "nats": 0.0}
    computed = model.clock.seconds
    batches = _reporting(_batches(passages, settings, packed), progress, encoded.counts["tokens"])
    waiting: dict[int, Passage] = {}
    found = captured(model, _noting(batches, waiting), settings, packed, fitting)
    with writing_capture(path, settings.codec, settings.most) as add, in_background(add) as write:
        for number, kept in enumerate(in_order(found)):
            passage = waiting.pop(number)
            row = columns(kept, passage)
            write(row)
            counts["chunks"] += 1
            counts["positions"] += len(passage)
            counts["kept"] += len(row["ids"])
            counts["beyond_context"] += passage.beyond_context
            counts["nats"] -= float(np.nansum(row["gold_logprob"], dtype=np.float64))
    return counts | {MADE: _made(model, computed, packed, fitting, batch_plan(settings, packed, fitting))}


def batch_plan(settings: CaptureSettings, packed: bool, fitting: Fitting) -> dict[str, Any]:
    """Return what fixes the shapes that were computed, and with them the last bits of every number."""
    plan = {"tokens_per_batch": settings.tokens_per_batch, "head_positions": fitting.head_positions}
    return plan if packed else plan | {"window_chunks": settings.window_chunks}


def packs(model: CausalModel, settings: CaptureSettings) -> bool:
    """Say whether batches are packed; raise `ModelRefused` where they must be and the model does not allow it."""
    if settings.batching == "packed" and model.packing.why_not:
        raise ModelRefused(
            f"capture.batching: this model cannot read packed chunks: {model.packing.why_not}. Set it to auto or "
            "sorted."
        )
    return settings.batching != "sorted" and not model.packing.why_not


def _made(model: CausalModel, computed: float, packed: bool, fitting: Fitting, plan: dict[str, Any]) -> dict[str, Any]:
    why = f" ({model.packing.why_not})" if model.packing.why_not else ""
    made: dict[str, Any] = {
        "model_seconds": round(model.clock.seconds - computed, 3),
        "batches": "packed" if packed else f"sorted by length{why}",
        "batch_plan": plan,
        **computed_on(model),
    }
    return made | ({"out_of_memory": fitting.notes} if fitting.notes else {})


def _batches(passages: Iterable[Passage], settings: CaptureSettings, packed: bool) -> Iterator[Batch]:
    if packed:
        return packed_batches(passages, settings.tokens_per_batch)
    return sorted_batches(passages, settings.tokens_per_batch, settings.window_chunks)


def _reporting(batches: Iterable[Batch], progress: Progress, total: int) -> Iterator[Batch]:
    """Report the positions of each batch once the next one is asked for."""
    done = 0
    for batch in batches:
        yield batch
        done += batch.tokens
        progress(min(done, total), total)


def _noting(batches: Iterable[Batch], waiting: dict[int, Passage]) -> Iterator[Batch]:
    for batch in batches:
        waiting.update(zip(*batch, strict=True))
        yield batch


def columns(found: TopK | None, passage: Passage) -> dict[str, Any]:
    """Return a row of CAPTURE; `found` is on the CPU, None for a passage without positions."""
    row: dict[str, Any] = {**passage.identity, "first": passage.first}
    if found is None:
        none, nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return row | dict.fromkeys(("counts", "ids", "draws", "gold_rank"), none) | dict.fromkeys(
            ("logprobs", "tail", "gold_logprob", "logits"), nothing
        )  # fmt: skip
    P, K = found.ids_TK.shape
    counts_P = torch.full((P,), K, dtype=torch.int32) if found.counts_T is None else found.counts_T
    kept_PK = torch.arange(K) < counts_P[:, None]

    def flat(values_PK: torch.Tensor | None, dtype: type) -> np.ndarray:
        return np.zeros(0, dtype) if values_PK is None else values_PK[kept_PK].numpy()

    return row | {
        "counts": counts_P.numpy(),
        "ids": flat(found.ids_TK, np.int32),
        "logprobs": round_logprobs(flat(found.logprobs_TK, np.float32)),
        "draws": flat(found.draws_TK, np.int32),
        "tail": round_mass(found.tail_T.numpy()),
        "gold_logprob": round_logprobs(found.gold_logprob_T.numpy()),
        "gold_rank": found.gold_rank_T.numpy(),
        "logits": flat(found.logits_TK, np.float32),
    }
