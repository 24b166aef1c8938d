"""Stage train on the other hosts of a run, and by hand: there nothing is locked and nothing published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.storage.atomic import replacing
from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.arms import fused_shards
from logitfuse.tasks.engine import Outcome, Progress, find, silent
from logitfuse.tasks.model_card import model_card
from logitfuse.tasks.train import arm_settings, work, worker_config
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.hosts import hosts_of
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

TRAINING = frozenset({"adapt", "train"})  # stages whose work all hosts of a run do together
SECONDS_BETWEEN_LOOKS = 1.0


def is_follower(run: Run) -> bool:
    """Whether this host lends its processes to a training run that another one leads and publishes."""
    hosts = hosts_of(run.recipe.execution.hosts)
    return hosts is not None and hosts.rank > 0


def follow(run: Run, unit: Unit, progress: Progress = silent) -> Outcome:
    """Train together with host 0, and return once it has published the model.

    Raises `WorkFailed` if training fails, here or there, or if the model does not appear afterwards.
    """
    described = run.work(unit)
    if record := find(run.store, described):
        return Outcome("kept", record)
    began = time.time()
    described.compute(run.store.local(described.place) / "of-host-0", progress)  # host 0 alone writes the model
    patience = run.recipe.execution.peer_timeout_seconds
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if record := find(run.store, described):
            return Outcome("done", record, time.time() - began)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    raise WorkFailed(
        f"{described.record_path}: training is done, but host 0 has not published the model within {patience} s. Look "
        "at what it says; both hosts must see the same run folder."
    )


def write_worker_config(run: Run, unit: Unit, file: Path) -> WorkerConfig:
    """Write the configuration with which an arm is trained by `accelerate launch`, without this package's launcher.

    It uses the stage's own checkpoints and also saves the last step: stage train, run afterwards on one process,
    publishes that model without training again.
    """
    described = work(run, unit)
    arm = unit.needed_source
    shards = fused_shards(run, arm)
    card = model_card(run, arm, arm_settings(run.recipe.train, arm), shards)
    folder = run.store.local(described.place)
    folder.mkdir(parents=True, exist_ok=True)
    config = worker_config(run, described, shards, card, folder / f"by-hand.{described.key}")
    config = config.model_copy(update={"checkpoint_at_end": True})
    with replacing(file) as scratch:
        scratch.write_text(config.model_dump_json(indent=1))
    return config
