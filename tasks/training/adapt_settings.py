"""How a model is continued on the training text before it is captured or trained."""

from __future__ import annotations

from copy import copy
from typing import Any, Literal

from pydantic import Field

from logitfuse.kernels.losses.backends import Backend
from logitfuse.storage.settings import Settings
from logitfuse.tasks.training.settings import Beta, DocumentShare, LoraSettings, TrainSettings


def _as_in_train(name: str) -> Any:
    """Return a field as stage train has it: meaning, bounds and default."""
    return copy(TrainSettings.model_fields[name])


class AdaptSettings(Settings):
    """Plain language modelling on the training split, lightly. Every field means what it means in stage train."""

    model_config = {"title": "Adapt"}

    domains: tuple[str, ...] = Field(
        (), title="Domains", description="Learn from these domains of the corpus alone: a specialist. Empty: from all."
    )
    documents: DocumentShare = _as_in_train("documents")
    learning_rate: float = _as_in_train("learning_rate")
    schedule: Literal["cosine", "constant"] = _as_in_train("schedule")
    warmup_ratio: float = _as_in_train("warmup_ratio")
    betas: tuple[Beta, Beta] = _as_in_train("betas")
    weight_decay: float = _as_in_train("weight_decay")
    max_grad_norm: float = _as_in_train("max_grad_norm")
    spike_factor: float | None = _as_in_train("spike_factor")
    spike_window: int = _as_in_train("spike_window")
    on_bad_step: Literal["stop", "skip"] = _as_in_train("on_bad_step")
    epochs: int = _as_in_train("epochs")
    max_steps: int | None = _as_in_train("max_steps")
    tokens_per_step: int = _as_in_train("tokens_per_step")
    sequences_per_step: int | None = _as_in_train("sequences_per_step")
    sequence_length: int = _as_in_train("sequence_length")
    micro_batch_tokens: int = _as_in_train("micro_batch_tokens")
    batching: Literal["auto", "packed", "padded"] = _as_in_train("batching")
    shuffle_rows: int = _as_in_train("shuffle_rows")
    loss_chunk: int = _as_in_train("loss_chunk")
    loss_backend: Backend = _as_in_train("loss_backend")
    dtype: Literal["bf16", "fp32"] = _as_in_train("dtype")
    gradient_checkpointing: bool = _as_in_train("gradient_checkpointing")
    attention: Literal["auto", "sdpa", "flash"] = _as_in_train("attention")
    freeze_embeddings: bool = _as_in_train("freeze_embeddings")
    lora: LoraSettings | None = _as_in_train("lora")
    seed: int = _as_in_train("seed")


def key_settings(settings: AdaptSettings) -> AdaptSettings:
    """Return the settings as they are in a key: what happens at a bad step makes no other model."""
    return settings.model_copy(update={"on_bad_step": "stop"})


def train_settings(settings: AdaptSettings, context: int) -> TrainSettings:
    """Return what the trainer is told: the labels alone, in sequences that the model can read (`context` tokens)."""
    fields = {name: getattr(settings, name) for name in AdaptSettings.model_fields if name != "domains"}
    length = min(settings.sequence_length, context)
    return TrainSettings(**{**fields, "clm_weight": 1.0, "sequence_length": length})
