"""What is shown of a training run while it goes on: its lines, and in Prefect's UI a plot of its losses."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from logitfuse.flows.repeating import repeating
from logitfuse.tasks.train import LOG, metrics_file
from logitfuse.tasks.train_hosts import TRAINING
from logitfuse.tasks.training.metrics import last_line, read_metrics
from logitfuse.tasks.training.report import held_out_line, progress_line
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

SECONDS_BETWEEN_PLOTS = 60.0
PATIENCE = 10.0  # seconds that the end of training waits for a server that does not answer
Say = Callable[[str], None]


@contextmanager
def training_shown(run: Run, unit: Unit, say: Say, warn: Say) -> Iterator[None]:
    """While the block trains, say its lines and keep its plot in Prefect's UI up to date; other stages have neither.

    Called by the unit's task, to which the plot then belongs.
    """
    if unit.stage not in TRAINING:
        yield
        return
    from logitfuse.flows.artifacts import artifact_key

    key = artifact_key(run.recipe.name, unit.stage, unit.source, "losses")
    plot = TrainingPlot(metrics_file(run, run.work(unit)), key, str(unit), warn, unit.needed_source)
    with training_lines(say), repeating(SECONDS_BETWEEN_PLOTS, plot.update, plot.update, patience=PATIENCE):
        yield


@contextmanager
def training_lines(say: Say) -> Iterator[None]:
    """Hand on what the training processes say while the block runs."""
    handler = _Saying(say)
    level = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


class _Saying(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


class TrainingPlot:
    """One image artifact per training run: updated, not added to, so that months of training fill no database."""

    def __init__(self, metrics: Path, key: str, name: str, warn: Say, model: str = "fused") -> None:
        self._metrics, self._key, self._name, self._warn, self._model = metrics, key, name, warn, model
        self._made: UUID | None = None
        line = last_line(metrics)
        self._step = line["step"] if line else 0  # of a model that stands already there is nothing new to show
        self._warned = False

    def update(self) -> None:
        """Send the plot if there are new steps; what the server cannot take is warned of once."""
        try:
            line = last_line(self._metrics)
            if line is not None and line["step"] != self._step:
                self._send()
                self._step = line["step"]
        except Exception as error:  # the server's trouble is not the work's
            if not self._warned:
                self._warn(f"the plot cannot be shown: {type(error).__name__}: {error}. Training goes on.")
            self._warned = True

    def _send(self) -> None:
        from prefect.artifacts import create_image_artifact
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactUpdate

        from logitfuse.tasks.reporting.live_plot import live_plot  # drawing is slow to import

        lines = read_metrics(self._metrics)
        drawn = live_plot(lines, self._model)
        if drawn is None:
            return
        image = "data:image/png;base64," + b64encode(drawn).decode()
        text = f"{self._name}: {progress_line(lines[-1])}"
        looks = [line for line in lines if "held_out" in line]
        if looks:
            text += f"\n\n{held_out_line(looks[-1])}"
        if self._made is None:
            made = create_image_artifact(image, key=self._key, description=text)
            assert isinstance(made, UUID)  # a coroutine only where an event loop runs
            self._made = made
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._made, ArtifactUpdate(data=image, description=text))
