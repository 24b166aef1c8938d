"""How the target model is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from logitfuse.kernels.losses.backends import Backend
from logitfuse.kernels.losses.divergences import DIVERGENCES, check_meaning
from logitfuse.kernels.losses.residuals import RESIDUALS, leaves_room
from logitfuse.storage.settings import Settings
from logitfuse.tasks.strategy import checked_options, normal_options, options_field, strategy_field

Beta = Annotated[float, Field(ge=0, lt=1)]
DocumentShare = Literal["all", "odd", "even"]


class LoraSettings(Settings):
    """Learn small matrices beside the weights (Hu et al., 2021), not the weights themselves."""

    model_config = {"title": "LoRA"}

    rank: int = Field(16, ge=1, title="Rank", description="Inner width of the two matrices beside each weight.")
    alpha: float = Field(32.0, gt=0, title="Alpha", description="Their product counts alpha / rank times.")
    dropout: float = Field(0.0, ge=0, lt=1, title="Dropout", description="Share of a layer's inputs they do not see.")
    target_modules: tuple[str, ...] = Field(
        (),
        title="Target modules",
        description="Last parts of the names of the layers that get them, such as q_proj; empty for every linear "
        "layer of the body.",
    )


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
    clm_weight_schedule: Literal["constant", "to_one", "linear", "cosine", "reward"] = Field(
        "constant",
        title="Schedule of λ",
        description="constant; to_one: λ + (1-λ)·step/steps, so that fusion fades out (the published decay); linear, "
        "cosine: from λ to the λ at the end; reward: 1 - the largest exp(-score) of a sequence's sources, whatever λ.",
    )
    clm_weight_end: float = Field(
        1.0, ge=0, le=1, title="λ at the end", description="What linear and cosine schedules of λ come to."
    )
    divergence: str = strategy_field(
        DIVERGENCES,
        "cross_entropy",
        "Divergence",
        "From the fused targets: cross_entropy; kl, which takes off the targets' own entropy and has the same "
        "gradient; reverse_kl, away from what the targets hold unlikely; jsd, between the two.",
    )
    divergence_options: dict[str, Any] = options_field(DIVERGENCES, "Options of the divergence")
    residual: str = strategy_field(
        RESIDUALS,
        "bucket",
        "Residual rule",
        "What becomes of the probability the sources left out: 'bucket' makes it one more class, 'renormalise' spreads "
        "it over the kept tokens, 'as_given' matches what is there (targets from raw logits, as published).",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        title="Temperature",
        description="Divides the target model's logits in the fused loss; the label's loss is at 1. The fused targets "
        "are taken as they stand: fuse.temperature is theirs.",
    )
    temperature_squared: bool = Field(
        False,
        title="Times temperature²",
        description="Multiply the fused loss with the temperature's square, so that its gradients keep their size.",
    )
    gate: Literal["none", "sequence"] = Field(
        "none",
        title="Gate",
        description="sequence: a sequence has its fused loss only at steps at which the fused targets give its labels "
        "more probability than the student itself does; else it learns its labels alone. Costs one more product of "
        "hidden states and output head a step.",
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
    pairwise: bool = Field(
        False,
        title="Pairwise fusion",
        description="Also fuse the target with each source alone and train a model on each of these (fused-NAME), as "
        "FuseChat does; stage merge then makes one of them.",
    )
    learning_rate: float = Field(1e-5, gt=0, title="Learning rate", description="Highest learning rate.")
    control_learning_rate: float | None = Field(
        None,
        gt=0,
        title="Learning rate of the control",
        description="The control's own highest learning rate, tuned for it too; empty: the same.",
    )
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
    spike_factor: float | None = Field(
        None,
        gt=1,
        title="Spike",
        description="A step whose loss is more than this many times the usual one is bad, as one whose loss or "
        "gradient is not a finite number always is. Empty: the loss may be what it is.",
    )
    spike_window: int = Field(
        32,
        ge=2,
        title="Usual loss",
        description="It is the median of this many steps before; the first ones never spike.",
    )
    on_bad_step: Literal["stop", "skip"] = Field(
        "stop",
        title="On a bad step",
        description="stop: save the state before it and end with its documents. skip: leave its update out, count it, "
        "and stop after ten in a row. Not in the key: a stopped run goes on from where it is with skip.",
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
        description="Tokens that one process computes at once; gradients are summed over a step. Lower it "
        "when memory is short. It changes rounding, so it is part of what identifies a result.",
    )
    batching: Literal["auto", "packed", "padded"] = Field(
        "auto",
        title="Batching",
        description="packed: sequences follow one another in a row of micro_batch_tokens without padding, none sees "
        "another. padded: sequences of like length. auto: packed where the model is found to keep them apart. It "
        "changes rounding alone.",
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
    loss_backend: Backend = Field(
        "auto",
        title="Loss backend",
        description="What visits the logits: triton on a GPU, numba on a CPU, torch anywhere; auto takes the fastest. "
        "It changes rounding alone.",
    )
    dtype: Literal["bf16", "fp32"] = Field(
        "bf16", title="Computes in", description="Matrix products; weights and optimiser are float32 in either case."
    )
    gradient_checkpointing: bool = Field(
        False, title="Gradient checkpointing", description="Recompute activations: less memory, a third more time."
    )
    attention: Literal["auto", "sdpa", "flash"] = Field(
        "auto",
        title="Attention",
        description="flash: flash-attn's kernels (a GPU, bf16, and the extra logitfuse[flash]). sdpa: torch's own. "
        "auto: flash where it can be had and the architecture supports it, else what transformers takes for it.",
    )
    documents: DocumentShare = Field(
        "all",
        title="Documents",
        description="Which training documents are learnt from. odd and even are two halves, cut by a hash of the "
        "document's id, so that adaptation and fusion can learn from different documents.",
    )
    freeze_embeddings: bool = Field(
        False,
        title="Freeze the embeddings",
        description="Keep the token embeddings and the output head as they are. A small model with a large vocabulary "
        "spends most of its training on them.",
    )
    lora: LoraSettings | None = Field(
        None,
        title="LoRA",
        description="Train low-rank adapters and keep the weights; empty to train all weights. Adapters want a "
        "learning rate ten to a hundred times higher.",
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, title="Seed", description="Fixes the order of the rows and dropout.")

    @field_validator("residual")
    @classmethod
    def _is_known(cls, name: str) -> str:
        RESIDUALS.get(name)
        return name

    @field_validator("divergence")
    @classmethod
    def _is_a_divergence(cls, name: str) -> str:
        DIVERGENCES.get(name)
        return name

    @field_validator("divergence_options")
    @classmethod
    def _fit(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return normal_options(DIVERGENCES, info.data.get("divergence"), options)

    @model_validator(mode="after")
    def _have_a_meaning(self) -> TrainSettings:
        options = checked_options(DIVERGENCES, self.divergence, self.divergence_options)
        check_meaning(self.divergence, self.residual, options)
        if self.gate != "none" and not leaves_room(self.residual):
            raise ValueError(
                f"gate {self.gate!r} compares likelihoods, and residual {self.residual!r} gives labels outside "
                "the kept tokens none, so that hardly a sequence would pass: set residual to bucket, or gate to none"
            )
        return self


STAY_AT_ONE = ("constant", "to_one")  # schedules that from λ = 1 go nowhere


def learns_targets(settings: TrainSettings) -> bool:
    """Return whether fused targets have any weight at any step."""
    return settings.clm_weight < 1 or settings.clm_weight_schedule not in STAY_AT_ONE


def control_of(settings: TrainSettings) -> TrainSettings:
    """Return the control's settings: all the same, but for its own learning rate; the labels alone are learnt."""
    schedule = settings.clm_weight_schedule if settings.clm_weight_schedule in STAY_AT_ONE else "constant"
    return settings.model_copy(
        update={
            "clm_weight": 1.0,
            "clm_weight_schedule": schedule,
            "control": False,
            "learning_rate": settings.control_learning_rate or settings.learning_rate,
            "control_learning_rate": None,
            "gate": "none",
        }
    )


def fused_of(settings: TrainSettings) -> TrainSettings:
    """Return the fused arm's settings: nothing of the control's."""
    return settings.model_copy(update={"control": False, "control_learning_rate": None})
