"""Runs that are done in the test's own process, stage after stage."""

import threading
from collections.abc import Iterable
from typing import Any

from logitfuse.tasks.checks import check_run, claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import STAGES
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.trainer import Trainer


def done_run(content: dict[str, Any], stages: Iterable[str] = STAGES) -> Run:
    """Check a recipe, do prepare and then these stages, all by default."""
    run = Run(parse_recipe(content, "test"))
    check_run(run)
    claim_folder(run.recipe)
    do_prepare(run)
    for stage in stages:
        list(do_units(run, run.units(stage)))
    return run


def train_here(config: WorkerConfig, **_: Any) -> None:
    """Train in this process: a child takes seconds to load torch."""
    Trainer(config, threading.Event(), lambda line: None).train()
