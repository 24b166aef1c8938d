"""Sizes that suit a machine, a corpus and models, for a recipe to begin with: what a person would choose by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BYTES_PER_TOKEN = 4.0  # of English; only how many steps there are depends on it
DEFAULT_CHUNK, CPU_CHUNK = 8192, 2048  # bytes; the first is a recipe's default
BYTES_PER_TOKEN_AT_LEAST = 2  # of small vocabularies and of code: a chunk must end before a model's context does
BYTES_PER_PARAMETER = 16  # in training: weights, gradient and AdamW's two averages in float32
SHORTEST_STEP, LONGEST_STEP = 4096, 262_144  # tokens; the longest is the paper's
STEPS = 100  # that a small corpus is to give at least
SHARDS, FEWEST_IN_A_SHARD, MOST_IN_A_SHARD = 8, 16, 2000
HELD_OUT, LEAST_SHARE, LARGEST_SHARE = 60, 0.02, 0.3  # documents that intervals want; shares of the corpus


@dataclass(frozen=True)
class Place:
    """What computes: memory of the smallest GPU in GB and how many there are (0: none)."""

    gpus: int = 0
    gpu_gb: float = 0.0


@dataclass(frozen=True)
class Text:
    """How much text there is; `counted` False: at least so much."""

    documents: int
    bytes: int
    counted: bool = True


@dataclass(frozen=True)
class Model:
    """A model: its parameters, and its longest input in tokens; None where only its hub knows."""

    parameters: int | None = None
    context: int | None = None


@dataclass(frozen=True)
class Sizes:
    """What a recipe says about sizes; None: its default."""

    held_out_share: float
    documents_per_shard: int
    max_chunk_bytes: int | None
    tokens_per_batch: int | None
    sequence_length: int
    tokens_per_step: int
    micro_batch_tokens: int
    learning_rate: float
    gradient_checkpointing: bool
    processes: int
    sharded: bool


def suitable(text: Text, target: Model, place: Place, sources: Sequence[Model] = ()) -> Sizes:
    """Return sizes for a run; sources are captured one at a time and want less than training the target does."""
    length = min(2048 if place.gpus else 1024, target.context or 2048)
    step = _tokens_per_step(text)
    room = place.gpu_gb * 1e9 * max(1, place.gpus) - (target.parameters or 0) * BYTES_PER_PARAMETER
    alone = place.gpu_gb * 1e9 * 0.9 > (target.parameters or 0) * BYTES_PER_PARAMETER
    return Sizes(
        held_out_share=round(min(LARGEST_SHARE, max(LEAST_SHARE, HELD_OUT / max(1, text.documents))), 2),
        documents_per_shard=min(MOST_IN_A_SHARD, max(FEWEST_IN_A_SHARD, math.ceil(text.documents / SHARDS))),
        max_chunk_bytes=_chunk(place, [target, *sources]),
        tokens_per_batch=None if place.gpus else 1024,
        sequence_length=length,
        tokens_per_step=max(step, length),
        micro_batch_tokens=max(length, min(step, _at_once(place, room))),
        learning_rate=_learning_rate(target.parameters),
        gradient_checkpointing=bool(place.gpus) and (target.parameters or 0) > 3e9,
        processes=max(1, place.gpus),
        sharded=place.gpus > 1 and not alone,
    )


def _tokens_per_step(text: Text) -> int:
    if not text.counted:
        return LONGEST_STEP
    wanted = max(1.0, text.bytes / BYTES_PER_TOKEN / STEPS)
    return int(min(LONGEST_STEP, max(SHORTEST_STEP, 2 ** round(math.log2(wanted)))))


def _chunk(place: Place, models: Sequence[Model]) -> int | None:
    """Return a chunk's bytes; None: the default. What lies beyond a model's context is predicted by no one."""
    usual = DEFAULT_CHUNK if place.gpus else CPU_CHUNK
    chunk = min([usual, *(BYTES_PER_TOKEN_AT_LEAST * model.context for model in models if model.context)])
    return None if chunk == DEFAULT_CHUNK else chunk


def _at_once(place: Place, room: float) -> int:
    if not place.gpus:
        return 2048
    return 8192 if room > 30e9 else 4096 if room > 10e9 else 2048


def _learning_rate(parameters: int | None) -> float:
    """Return the paper's rate, higher for small models."""
    if parameters is None or parameters > 3e9:
        return 1e-5
    return 5e-5 if parameters < 5e8 else 2e-5


def fits(target: Model, sources: Sequence[Model], place: Place) -> str:
    """Say what will not fit into the GPUs' memory; nothing where all does, or where there is none to fill."""
    if not place.gpus:
        return ""
    largest = max([source.parameters or 0 for source in sources], default=0)
    if largest * 2 > place.gpu_gb * 1e9 * 0.9:
        return f"a source has {largest / 1e9:.1f} G parameters, more than one GPU of {place.gpu_gb:.0f} GB holds"
    if (target.parameters or 0) * BYTES_PER_PARAMETER > place.gpus * place.gpu_gb * 1e9 * 0.9:
        count = (target.parameters or 0) / 1e9
        return f"training {count:.1f} G parameters wants more than these GPUs have: see train.lora"
    return ""
