"""How the target model is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from logitfuse.kernels.losses.residuals import RESIDUALS, Divergence
from logitfuse.storage.settings import Settings
from logitfuse.tasks.strategy import strategy_field

Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainSettings(Settings):
    """How the target learns from the fused targets. Defaults are the paper's, apart from the residual rule."""

    model_config = {"title": "Train"}

    clm_weight: float = Field(
        0.9,
        ge=0,
        le=1,
        title="Weight of the labels (λ)",
        description="Share of the label's loss at positions that have a fused target, which gets the rest. 1 is "
        "plain language-model training. Positions without a fused target learn from the label alone.",
    )
    residual: str = strategy_field(
        RESIDUALS,
        "bucket",
        "Residual rule",
        "What becomes of the probability the sources left out: 'bucket' makes it one more class, 'renormalise' spreads "
        "it over the kept tokens, 'as_given' matches what is there (targets from raw logits, as published).",
    )
    clm_weight_schedule: Literal["constant", "to_one"] = Field(
        "constant",
        title="Schedule of λ",
        description="constant, or to_one: λ + (1-λ)·step/steps, so that fusion fades out (the published decay).",
    )
    divergence: Divergence = Field(
        "cross_entropy",
        title="Divergence",
        description="From the fused targets: cross_entropy, or kl, which takes off the targets' own entropy. The same "
        "gradient; only the reported loss differs.",
    )
    weighting: Literal["position", "sequence"] = Field(
        "position",
        title="Weighting",
        description="position: every labelled position of a step counts alike. sequence (published): means within a "
        "sequence, every sequence counts alike, and positions without a label learn their fused target too.",
    )
    control: bool = Field(
        False,
        title="Train a control",
        description="Also train the same model on the same tokens with λ = 1, to see what fusion adds.",
    )
    learning_rate: float = Field(1e-5, gt=0, title="Learning rate", description="Highest learning rate.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", title="Schedule", description="After the warm-up: cosine goes down to 0, constant stays."
    )
    warmup_ratio: float = Field(
        0.008, ge=0, le=1, title="Warm-up", description="Share of the steps over which the learning rate rises."
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), title="AdamW betas", description="Decay of AdamW's two averages.")
    weight_decay: float = Field(
        0.1, ge=0, title="Weight decay", description="AdamW's decay of matrices; vectors do not decay."
    )
    max_grad_norm: float = Field(
        1.0, gt=0, title="Largest gradient", description="Gradients with a larger norm are scaled down to it."
    )
    epochs: int = Field(1, ge=1, title="Epochs", description="Passes over the training rows.")
    max_steps: int | None = Field(
        None, ge=1, title="Most steps", description="End after this many optimiser steps; empty for all epochs."
    )
    tokens_per_step: int = Field(
        262_144, ge=1, title="Tokens per step", description="An optimiser step takes sequences up to this many tokens."
    )
    sequences_per_step: int | None = Field(
        None,
        ge=1,
        title="Sequences per step",
        description="If set, a step takes this many sequences, whatever their lengths, and no count of tokens.",
    )
    sequence_length: int = Field(
        2048,
        ge=2,
        title="Sequence length",
        description="Longest input in tokens. A longer chunk goes on in a further sequence, whose positions start "
        "again at 0 and which does not see what came before.",
    )
    micro_batch_tokens: int = Field(
        8192,
        ge=1,
        title="Tokens at once",
        description="Padded tokens that one process computes at once; gradients are summed over a step. Lower it "
        "when memory is short. It changes rounding, so it is part of what identifies a result.",
    )
    shuffle_rows: int = Field(
        8192,
        ge=1,
        title="Shuffle pool",
        description="Rows that are shuffled among each other; pools are drawn from all over the corpus. Each process "
        "holds about one pool in memory.",
    )
    loss_chunk: int = Field(
        256, ge=1, title="Loss chunk", description="Positions whose logits exist at once; more is faster on a GPU."
    )
    dtype: Literal["bf16", "fp32"] = Field(
        "bf16", title="Computes in", description="Matrix products; weights and optimiser are float32 in either case."
    )
    gradient_checkpointing: bool = Field(
        False, title="Gradient checkpointing", description="Recompute activations: less memory, a third more time."
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, title="Seed", description="Fixes the order of the rows and dropout.")

    @field_validator("residual")
    @classmethod
    def _is_known(cls, name: str) -> str:
        RESIDUALS.get(name)
        return name


def control_of(settings: TrainSettings) -> TrainSettings:
    """Return the control's settings: all the same, the labels alone are learnt."""
    return settings.model_copy(update={"clm_weight": 1.0, "control": False})
