"""How a training run is watched, as the worker processes are told. Nothing here can change the trained weights."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from logitfuse.storage.settings import Settings


class WatchSettings(Settings):
    """What is measured beside training, and where it is shown."""

    peak_tflops: float | None = Field(
        None, title="Peak TFLOP/s", description="Of one device, for MFU; empty: from a table of known GPUs."
    )
    sample: Path | None = Field(None, title="Held-out sample", description="File of held-out texts in its ids.")
    evaluate_every_steps: int = Field(0, title="Evaluate every", description="Steps between looks at it; 0: never.")
    tensorboard: Path | None = Field(None, title="TensorBoard", description="Folder of event files; empty: none.")
    wandb: str = Field("", title="W&B project", description="Empty: none.")
    wandb_run: str = Field("", title="W&B run", description="Name of the run there.")
