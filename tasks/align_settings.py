"""Settings of stage align, and what they ask of the stages before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from logitfuse.kernels.alignment import ALIGNMENTS
from logitfuse.storage.settings import Settings
from logitfuse.tasks.strategy import checked_options, normal_options, options_field, strategy_field

if TYPE_CHECKING:
    from logitfuse.tasks.capture_settings import CaptureSettings

Conditioning = Literal["auto", "always", "never"]


class AlignSettings(Settings):
    """How positions of a source and of the target are matched, and what is carried over."""

    model_config = {"title": "Align"}

    strategy: str = strategy_field(
        ALIGNMENTS,
        "offsets",
        "Alignment",
        "offsets: the position that has read exactly the same bytes. dtw: dynamic time warping over the tokens' "
        "spelling (the paper).",
    )
    options: dict[str, Any] = options_field(ALIGNMENTS, "Options of the alignment")
    fallback: Literal["mask", "next_token", "current_token"] = Field(
        "mask",
        title="Where no position serves",
        description="mask: nothing is taught there. next_token: the true next token. current_token: the token just "
        "read, as the published code does.",
    )
    collision: Literal["add", "first"] = Field(
        "add",
        title="Two tokens on one",
        description="Source tokens that become the same target token: add their mass, or keep the first as the "
        "published code does.",
    )
    values: Literal["probabilities", "logits"] = Field(
        "probabilities",
        title="Values",
        description="probabilities: of the source's full softmax. logits: the kept raw logits, as the published code "
        "does; needs capture.raw_logits and collision first.",
    )
    condition_on_target: Conditioning = Field(
        "auto",
        title="Condition on the target",
        description="Where a source token may become several target tokens, weight these by what the target itself "
        "predicts there. auto: wherever the target is captured (include_target).",
    )
    min_probability: float = Field(
        0.001,
        ge=0,
        lt=1,
        title="Least probability",
        description="Target tokens below it join the left-out mass: a tiny probability is more often an accident of "
        "the map than knowledge. Raw logits are kept whatever they are.",
    )

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        ALIGNMENTS.get(name)
        return name

    @field_validator("options")
    @classmethod
    def _fit(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return normal_options(ALIGNMENTS, info.data.get("strategy"), options)

    @model_validator(mode="after")
    def _options_fit(self) -> AlignSettings:
        checked_options(ALIGNMENTS, self.strategy, self.options)
        if self.values == "logits" and self.collision != "first":
            raise ValueError("collision: raw logits cannot be added up; set collision to 'first' or values back")
        if self.values == "logits" and self.condition_on_target == "always":
            raise ValueError("condition_on_target: raw logits are carried as they are; set it or values, not both")
        return self


def check_align_inputs(align: AlignSettings, capture: CaptureSettings, include_target: bool) -> None:
    """Raise ValueError where align asks for what the recipe does not capture."""
    if align.values == "logits" and not capture.raw_logits:
        raise ValueError("align.values is 'logits', which capture keeps only if asked: set capture.raw_logits to true")
    if capture.mode == "sampled" and align.min_probability > 0:
        raise ValueError(
            "align.min_probability would drop drawn tokens, which stand for the tail only all together: set it to 0, "
            "or capture.mode to topk"
        )
    if align.condition_on_target == "always" and not include_target:
        raise ValueError("align.condition_on_target needs what the target predicts: set include_target to true")


def conditions(align: AlignSettings, include_target: bool) -> bool:
    """Return whether the map's rows are weighted by what the target predicts."""
    wanted = align.condition_on_target
    return wanted == "always" or (wanted == "auto" and include_target and align.values == "probabilities")


def key_settings(align: AlignSettings, include_target: bool) -> AlignSettings:
    """Return the settings without what changes no byte: how conditioning was asked for, a least logit."""
    wanted: Conditioning = "auto" if conditions(align, include_target) else "never"
    if wanted == "never" and not conditions(AlignSettings(values=align.values, collision="first"), include_target):
        wanted = "auto"  # which would not either
    least = AlignSettings().min_probability if align.values == "logits" else align.min_probability
    return align.model_copy(update={"condition_on_target": wanted, "min_probability": least})
