"""TensorBoard and Weights & Biases: views of metrics.jsonl, which is the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.metrics import scalars

Line = dict[str, Any]


class Board(Protocol):
    """Somewhere that a run's numbers are shown."""

    def write(self, line: Line) -> None:
        """Show one line of metrics."""

    def close(self) -> None:
        """Send what is still held."""


class TensorBoard:
    """Event files, made anew from the metrics when a run is resumed: steps done again never stand twice."""

    def __init__(self, folder: Path, lines: Sequence[Line]) -> None:
        """Write the lines of the steps that are done. Raises `BadInput` if tensorboard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BadInput(
                "execution.tensorboard is set, but the package is not installed. Run: pip install "
                "'logitfuse[tensorboard]', or set it to false."
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # A TensorBoard that is open forgets the points it has read from the removed files.
        self._writer = SummaryWriter(str(folder), purge_step=1)
        for line in lines:
            self.write(line)
        self._writer.flush()

    def write(self, line: Line) -> None:
        for name, value in scalars(line).items():
            self._writer.add_scalar(name, value, line["step"], walltime=line.get("time"))

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run there; resumed, it goes on as the same one. Without network it is kept in a folder for `wandb sync`."""

    def __init__(
        self, project: str, name: str, key: str, folder: Path, settings: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        """`key` identifies the run. Raises `BadInput` if wandb is not installed."""
        try:
            import wandb
        except ImportError as error:
            raise BadInput(
                "execution.wandb is set, but the package is not installed. Run: pip install 'logitfuse[wandb]', or "
                "leave it empty."
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {
            "project": project, "name": name, "id": key, "resume": "allow", "dir": str(folder), "config": settings,
        }  # fmt: skip
        try:
            self._run = wandb.init(**given)
        except Exception as error:  # the client's own errors, for a network or an account that is not there
            say(f"W&B cannot be reached ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}): "
                f"the run is kept in {folder}; `wandb sync` sends it later.")  # fmt: skip
            self._run = wandb.init(**given, mode="offline")

    def write(self, line: Line) -> None:
        # Steps that are done again are the same to the bit, and W&B takes none twice.
        if line["step"] >= self._run.step:
            self._run.log(scalars(line), step=line["step"])

    def close(self) -> None:
        self._run.finish()
