"""Settings of stage fuse, and what they ask of the stages before."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.storage.errors import BadInput
from logitfuse.storage.settings import Settings
from logitfuse.tasks.named_weights import check_named_weights
from logitfuse.tasks.strategy import checked_options, normal_options, options_field, strategy_field

Granularity = Literal["document", "block", "chunk"]
Score = Literal["nats_per_byte", "nats_per_token"]


class FuseSettings(Settings):
    """How the sources become one target distribution."""

    model_config = {"title": "Fuse"}

    rule: str = strategy_field(
        FUSIONS,
        "weighted",
        "Fusion rule",
        "min_ce keeps the source that predicts the document best; avg_ce averages all of them; weighted lies between, "
        "by its temperature; bayes weighs sources by the text so far.",
    )
    options: dict[str, Any] = options_field(FUSIONS, "Options of the rule")
    granularity: Granularity = Field(
        "document",
        title="Granularity",
        description="What is scored as one: a document; a packed block of documents (the paper); a chunk between "
        "byte boundaries that all models share, which chooses by the very token that is to be predicted.",
    )
    block_tokens: int = Field(
        2048, ge=2, title="Block length", description="Tokens of a packed block; only with granularity block."
    )
    score: Score = Field(
        "nats_per_byte",
        title="Score",
        description="nats_per_byte: cross-entropy over identical bytes. nats_per_token: over each source's own tokens "
        "(the paper), which favours finer tokenizers.",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        title="Temperature",
        description="Divides the kept logits before their softmax; only where align keeps logits.",
    )
    min_advantage: float | None = Field(
        None,
        allow_inf_nan=False,
        title="Least advantage",
        description="Text gets fused targets only where the best other source predicts it better than the target model "
        "itself by this many nats per byte; elsewhere the labels alone are learnt. What is weighed is what granularity "
        "scores as one. Empty: everywhere.",
    )
    shuffled: bool = Field(
        False,
        title="Shuffled sources",
        description="A control, no way to fuse: every source's predictions are those on another document of the same "
        "shard and split, position by position; how much each source counts stays what it was.",
    )
    source_weights: dict[str, float] = Field(
        {},
        title="Weights of sources",
        description="Weight of a source by its name, 1 where not given: multiplies its share of a mixture, and its "
        "reward exp(-score) where one source is chosen.",
    )

    @field_validator("rule")
    @classmethod
    def _is_known(cls, name: str) -> str:
        FUSIONS.get(name)
        return name

    @field_validator("options")
    @classmethod
    def _fit(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return normal_options(FUSIONS, info.data.get("rule"), options)

    @field_validator("source_weights")
    @classmethod
    def _are_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of {name!r} is {weight}; give a number that is at least 0")
        return weights

    @model_validator(mode="after")
    def _parts_fit(self) -> FuseSettings:
        checked_options(FUSIONS, self.rule, self.options)
        if self.granularity == "chunk" and self.score == "nats_per_token":
            raise ValueError("granularity chunk compares identical bytes: set score to nats_per_byte")
        if self.min_advantage is not None and self.score == "nats_per_token":
            raise ValueError("min_advantage is in nats per byte over identical bytes: set score to nats_per_byte")
        return self


def key_settings(settings: FuseSettings) -> FuseSettings:
    """Return the settings without what changes no byte: weights of 1, and the length of blocks where there are none."""
    weights = {name: weight for name, weight in settings.source_weights.items() if weight != 1}
    block_tokens = settings.block_tokens if settings.granularity == "block" else FuseSettings().block_tokens
    return settings.model_copy(update={"source_weights": weights, "block_tokens": block_tokens})


def weights_among(settings: FuseSettings, labels: Collection[str]) -> FuseSettings:
    """Return the settings with the weights of these sources alone."""
    weights = {name: weight for name, weight in settings.source_weights.items() if name in labels}
    return settings.model_copy(update={"source_weights": weights})


def check_weights(settings: FuseSettings, labels: Collection[str]) -> None:
    """Check that every weighed source is there and that one weight is left; raises `BadInput`."""
    check_named_weights("fuse.source_weights", "source", settings.source_weights, labels)


def check_advantage(settings: FuseSettings, labels: Collection[str], target: str) -> None:
    """Check that there is somebody to compare the target model with, and that it is scored; raises `BadInput`."""
    if settings.min_advantage is None:
        return
    others = [label for label in labels if label != target and settings.source_weights.get(label, 1.0) > 0]
    if target not in labels or not others:
        what = "include_target to true" if target not in labels else "a source that counts"
        raise BadInput(
            f"fuse.min_advantage: it compares other sources with the target model's own score. Set {what}, or "
            "min_advantage to empty."
        )


def check_inputs(settings: FuseSettings, *, past_end: bool, logits: bool, start: int | None, end: int | None) -> None:
    """Check that the stages before keep what these settings need; raises `BadInput`.

    `past_end` and `logits`: what capture and align keep. `start`, `end`: the target's tokens, None without.
    """
    if settings.temperature != 1 and not logits:
        raise BadInput("fuse.temperature: there is nothing to divide. Set align.values to logits, or temperature to 1.")
    if settings.granularity != "block":
        return
    if not past_end:
        raise BadInput(
            "fuse.granularity: a block has a prediction after every token, end tokens included. Set capture.past_end "
            "to true, or granularity to document."
        )
    if start is not None or end is None:
        raise BadInput(
            "fuse.granularity: packed documents are separated by the target's end token and have no start token. Set "
            "target.start to none and target.end to a token, or granularity to document."
        )
