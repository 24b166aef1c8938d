"""Runs that are done in the test's own process, stage after stage."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from logitfuse.tasks import train
from logitfuse.tasks.checks import check_run, claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import STAGES
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.trainer import Trainer

Training = Callable[..., None]  # called as `run_training` is


def done_run(content: dict[str, Any], stages: Iterable[str] = STAGES, training: Training | None = None) -> Run:
    """Check a recipe, do prepare and then these stages, all by default; train with `training`, or `train_here`."""
    run = Run(parse_recipe(content, "test"))
    check_run(run)
    claim_folder(run.recipe)
    with training_here(training):
        do_prepare(run)
        for stage in stages:
            list(do_units(run, run.units(stage)))
    return run


@contextmanager
def training_here(training: Training | None = None) -> Iterator[None]:
    """Train models in this process meanwhile: a child takes seconds to load torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "run_training", training or train_here)
        yield


def train_here(config: WorkerConfig, **_: Any) -> None:
    """Do what `run_training` does, without a child."""
    Trainer(config, threading.Event(), lambda line: None).train()
