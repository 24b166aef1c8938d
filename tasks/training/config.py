"""What a training run is told: its settings, what it reads, and where it writes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from logitfuse.storage.settings import Settings
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.training.watch_settings import WatchSettings


class FusedShard(Settings):
    """A shard of the fuse stage and the checksum its record vouches for."""

    path: Path = Field(Path(), title="File", description="The Parquet file on this machine.")
    checksum: str = Field("", title="Checksum", description="sha256:… of the file.")


class TextShard(Settings):
    """A shard of the encode stage, and the prepared shard that says which of its chunks are for training."""

    path: Path = Field(Path(), title="File", description="The encoded shard on this machine.")
    checksum: str = Field("", title="Checksum", description="sha256:… of the file.")
    prepared: Path = Field(Path(), title="Prepared file", description="The prepared shard it was made from.")
    prepared_checksum: str = Field("", title="Its checksum", description="sha256:… of that file.")


class PlainText(Settings):
    """Text to learn from by plain language modelling, in the model's own tokens."""

    shards: tuple[TextShard, ...] = Field((), title="Shards", description="The encoded shards, in order.")
    start: int | None = Field(None, title="Start token", description="Id before each text; empty for none.")
    end: int | None = Field(None, title="End token", description="Id predicted after each document; empty for none.")
    domains: tuple[str, ...] = Field((), title="Domains", description="Text of these alone; empty for all.")


class WorkerConfig(Settings):
    """One training run, as the worker processes read it from a JSON file."""

    settings: TrainSettings = Field(TrainSettings(), title="Train", description="How to train.")
    model: Path = Field(Path(), title="Model", description="Hugging Face folder of the target, with its tokenizer.")
    shards: tuple[FusedShard, ...] = Field((), title="Shards", description="The fused shards, in order.")
    text: PlainText | None = Field(
        None, title="Text", description="What is learnt from in place of fused shards; empty: those."
    )
    out: Path = Field(Path("model"), title="Result", description="Folder for the trained model.")
    checkpoints: Path = Field(Path("checkpoints"), title="Checkpoints", description="Folder of this run's own.")
    metrics: Path = Field(Path("metrics.jsonl"), title="Metrics", description="A JSON line for each step.")
    card: str = Field("", title="Model card", description="Text of the model's README.md.")
    key: str = Field("", title="Key", description="Identifies the result; only its own checkpoints are resumed.")
    checkpoint_every_steps: int = Field(
        200, ge=1, title="Checkpoint every", description="Steps from one checkpoint to the next."
    )
    keep_checkpoints: int = Field(2, ge=1, title="Keep checkpoints", description="Newest checkpoints that are kept.")
    base_model: str = Field(
        "", title="Base model", description="What a LoRA adapter says it belongs to: the target as users know it."
    )
    checkpoint_at_end: bool = Field(
        False,
        title="Checkpoint at the end",
        description="Also save the last step, so that stage train publishes a model that was trained by hand.",
    )
    peer_timeout_seconds: int = Field(
        1800,
        ge=1,
        title="Patience",
        description="Seconds that a process waits for a silent one, for example while process 0 writes a checkpoint. "
        "One that died is noticed at once, unless its whole machine or network is gone.",
    )
    watch: WatchSettings = Field(WatchSettings(), title="Watch", description="How the run is watched.")
    sharded: bool = Field(
        False, title="Sharded", description="Spread weights and optimiser over the processes (FSDP2) instead of DDP."
    )
