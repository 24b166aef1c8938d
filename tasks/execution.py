"""Where and with what a run is done: the part of a recipe that is in no key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from logitfuse.storage.paths import user_path
from logitfuse.storage.settings import Settings
from logitfuse.storage.urls import WITHOUT_SECRETS, check_url, is_url
from logitfuse.tasks.training.hosts import HostSettings


class Execution(Settings):
    """Where and with what a run is done. Nothing here can change a result, so nothing here is in a key."""

    model_config = {"title": "Execution"}

    folder: str = Field(
        "runs",
        title="Runs folder",
        description="Folder that holds a folder per run: a path, or a URL such as s3://bucket/runs (needs the extra "
        "logitfuse[s3]).",
        json_schema_extra=WITHOUT_SECRETS,
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", title="Device", description="Where models compute.")
    workers: int = Field(2, ge=1, title="Workers", description="Shards worked on at once in the data stages.")
    shards_per_run: int = Field(
        0,
        ge=0,
        title="Shards per run",
        description="0: the pipeline's run does all stages itself. Otherwise it hands them out as deployment runs to "
        "the workers of their queues, the shards of encode, capture, align and fuse in runs of so many.",
    )
    processes: int = Field(
        1, ge=1, title="Training processes", description="Processes that train, one per GPU; on each host that many."
    )
    hosts: HostSettings = Field(
        HostSettings(),
        title="Training hosts",
        description="Several machines that train one model; all of them run stage train on one shared folder.",
    )
    peer_timeout_seconds: int = Field(
        1800,
        ge=1,
        title="Patience",
        description="Seconds that training processes wait for a silent one, and hosts for one another at the start. "
        "It must be more than writing a checkpoint takes.",
    )
    checkpoint_every_steps: int = Field(
        200, ge=1, title="Checkpoint every", description="Training steps from one checkpoint to the next."
    )
    keep_checkpoints: int = Field(2, ge=1, title="Keep checkpoints", description="Newest checkpoints that are kept.")
    sharded: bool = Field(
        False, title="Sharded training", description="Spread weights and optimiser over the processes (FSDP2)."
    )
    evaluate_every_steps: int = Field(
        200,
        ge=0,
        title="Look at held-out text every",
        description="Training steps from one look at a small sample of the validation split to the next; 0: never.",
    )
    evaluate_tokens: int = Field(
        16384, ge=1, title="Held-out sample", description="Tokens of that sample, as many of each domain."
    )
    tensorboard: bool = Field(
        False,
        title="TensorBoard",
        description="Write event files into the run's folder (needs the extra logitfuse[tensorboard]).",
    )
    wandb: str = Field(
        "",
        title="W&B project",
        description="Show training in this project of Weights & Biases (needs the extra logitfuse[wandb]); empty: not.",
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        title="Peak TFLOP/s",
        description="What one device can do at best, for the model FLOP utilisation (MFU); empty: known GPUs' own.",
    )
    min_free_gb: float = Field(1.0, ge=0, title="Free disk (GB)", description="Refuse to start with less than this.")
    plan: Literal["stop", "warn", "skip"] = Field(
        "stop",
        title="Plan first",
        description="Before anything is spent, a run estimates whether it fits on its disk and into memory. stop: one "
        "that cannot is not begun. warn: it is told, and begins. skip: nothing is estimated.",
    )

    @model_validator(mode="after")
    def _folder_can_be_used(self) -> Execution:
        if is_url(self.folder):
            check_url(self.folder, "folder")
        elif not self.folder.strip():
            raise ValueError("folder: it is empty; write . for the folder that you are in")
        else:
            user_path(self.folder, "folder")
        return self
