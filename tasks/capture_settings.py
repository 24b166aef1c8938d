"""Settings of stage capture: what is kept of each prediction, and how the text is cut into batches."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from logitfuse.kernels.keep import Keep, Mode
from logitfuse.storage.settings import Settings

Codec = Literal["plain", "compact"]
# What each mode does not look at.
UNUSED: dict[Mode, tuple[str, ...]] = {
    "topk": ("top_p", "draws", "seed"),
    "topp": ("draws", "seed"),
    "sampled": ("top_p",),
}


class CaptureSettings(Settings):
    """What is kept of each source's predictions."""

    model_config = {"title": "Capture"}

    mode: Mode = Field(
        "topk",
        title="Mode",
        description="topk: the k likeliest tokens. topp: the fewest that reach a probability, at most k. sampled: the "
        "k likeliest, and draws that stand for the rest without bias.",
    )
    k: int = Field(10, ge=1, le=512, title="Top-k", description="Likeliest tokens kept at each position.")
    top_p: float = Field(
        0.95, gt=0, le=1, title="Enough probability", description="Only with mode topp: k is then an upper bound."
    )
    draws: int = Field(
        32, ge=1, le=512, title="Draws", description="Only with mode sampled: tokens drawn from the rest, some often."
    )
    seed: int = Field(0, ge=0, title="Seed", description="Only with mode sampled: of the draws.")
    temperature: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        title="Temperature",
        description="Divides the logits of what is kept, over the whole vocabulary. The true token's log-probability, "
        "by which sources are compared, is always the model's own. Anything but 1 makes the head slow on a CPU.",
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
    batching: Literal["auto", "packed", "sorted"] = Field(
        "auto",
        title="Batches",
        description="packed: chunks after one another in one row, kept apart in attention; nothing is padded. sorted: "
        "chunks of like length, padded. auto: packed where the model was found to allow it.",
    )
    tokens_per_batch: int = Field(
        4096, ge=1, title="Tokens per batch", description="Upper bound of a forward pass, padding included."
    )
    window_chunks: int = Field(
        1024,
        ge=1,
        title="Sorting window",
        description="Chunks sorted by length together, so that batches pad little; only where they are not packed.",
    )
    head_positions: int | None = Field(
        None,
        ge=1,
        title="Head chunk",
        description="Positions whose logits exist at the same time; empty: 128 on a CPU, on a GPU as many as fit into "
        "1 GiB.",
    )
    codec: Codec = Field(
        "plain",
        title="Codec",
        description="plain: any Parquet reader sees the columns. compact: about two thirds of the bytes, still "
        "Parquet, rounded a little more.",
    )

    @property
    def keep(self) -> Keep:
        """What is kept of each position, as the kernels know it."""
        return Keep(self.k, self.mode, self.top_p, self.draws, self.temperature, self.raw_logits)

    @property
    def most(self) -> int:
        """Most tokens that a position keeps."""
        return self.k + (self.draws if self.mode == "sampled" else 0)

    @model_validator(mode="after")
    def _fit(self) -> CaptureSettings:
        if self.raw_logits and (self.mode != "topk" or self.temperature != 1):
            raise ValueError(
                "raw_logits: the published code keeps the top k at temperature 1; set mode and temperature"
            )
        return self


def key_settings(settings: CaptureSettings) -> CaptureSettings:
    """Return the settings without what changes no byte: what the mode and the batches do not look at."""
    default = CaptureSettings()
    unused = [*UNUSED[settings.mode], *(("window_chunks",) if settings.batching == "packed" else ())]
    return settings.model_copy(update={name: getattr(default, name) for name in unused})
