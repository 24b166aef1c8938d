"""What a training run is told: its settings, what it reads, and where it writes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from logitfuse.storage.settings import Settings
from logitfuse.tasks.training.settings import TrainSettings


class FusedShard(Settings):
    """A shard of the fuse stage and the checksum its record vouches for."""

    path: Path = Field(Path(), title="File", description="The Parquet file on this machine.")
    checksum: str = Field("", title="Checksum", description="sha256:… of the file.")


class WorkerConfig(Settings):
    """One training run, as the worker processes read it from a JSON file."""

    settings: TrainSettings = Field(TrainSettings(), title="Train", description="How to train.")
    model: Path = Field(Path(), title="Model", description="Hugging Face folder of the target, with its tokenizer.")
    shards: tuple[FusedShard, ...] = Field((), title="Shards", description="The fused shards, in order.")
    out: Path = Field(Path("model"), title="Result", description="Folder for the trained model.")
    checkpoints: Path = Field(Path("checkpoints"), title="Checkpoints", description="Folder of this run's own.")
    metrics: Path = Field(Path("metrics.jsonl"), title="Metrics", description="A JSON line for each step.")
    card: str = Field("", title="Model card", description="Text of the model's README.md.")
    key: str = Field("", title="Key", description="Identifies the result; only its own checkpoints are resumed.")
    checkpoint_every_steps: int = Field(
        200, ge=1, title="Checkpoint every", description="Steps from one checkpoint to the next."
    )
    keep_checkpoints: int = Field(2, ge=1, title="Keep checkpoints", description="Newest checkpoints that are kept.")
    sharded: bool = Field(
        False, title="Sharded", description="Spread weights and optimiser over the processes (FSDP2) instead of DDP."
    )
