"""What the flow and task runs of one process share: the opened run, and whoever watches it.

Prefect visits, hashes and sends what it is given as parameters; models and tokenizers are too big for that. So a task
gets only the name of its unit and finds the rest here. Prefect copies the context into the threads of its tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from logitfuse.flows.stage_progress import StageProgress
from logitfuse.flows.up.child import end_with_up
from logitfuse.tasks.checks import check_run, claim_folder, lock_warning
from logitfuse.tasks.engine import Outcome
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.flows.artifacts import ProgressArtifacts


class Watcher(Protocol):
    """Somebody who is shown the work while it goes on, such as the command line's progress bars."""

    def showing(self, progress: StageProgress, /) -> AbstractContextManager[None]:
        """Look at a stage while a block runs."""

    def finish(self, unit: Unit, line: str, /) -> None:
        """Take note of what became of a unit."""

    def say(self, line: str, /) -> None:
        """Take note of anything else."""


class Nobody:
    """A watcher who does not look."""

    def showing(self, progress: StageProgress, /) -> AbstractContextManager[None]:
        return nullcontext()

    def finish(self, unit: Unit, line: str, /) -> None:
        pass

    def say(self, line: str, /) -> None:
        pass


@dataclass
class Session:
    """One opened run; `outcomes` is what the tasks of its present stage have made so far."""

    run: Run
    watcher: Watcher = field(default_factory=Nobody)
    outcomes: dict[Unit, Outcome] = field(default_factory=dict)
    progress: StageProgress | None = None  # of the present stage
    artifacts: ProgressArtifacts | None = None  # which show it in Prefect's UI


_current: ContextVar[Session | None] = ContextVar("logitfuse_session", default=None)


def current() -> Session:
    """Return the session of the flow that is running."""
    session = _current.get()
    assert session is not None, "a task of this project runs inside one of its flows only"
    return session


@contextmanager
def sharing(run: Run, watcher: Watcher | None = None) -> Iterator[Session]:
    """Let the flows called in the block work on `run` and report to `watcher`; the caller has checked the run."""
    session = Session(run, watcher or Nobody())
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)
        run.unload()


@contextmanager
def opened(recipe: Recipe) -> Iterator[Session]:
    """Yield the caller's session if it is about the same recipe; open, check and claim the run otherwise.

    Raises `BadInput`, `ModelRefused` or `OutOfSpace` before anything is written.
    """
    session = _current.get()
    if session is not None and session.run.recipe == recipe:
        yield session
        return
    end_with_up()
    run = Run(recipe)
    check_run(run)
    claim_folder(recipe)
    if warning := lock_warning(recipe):
        logging.getLogger("prefect.flow_runs").warning(warning)
    with sharing(run) as session:
        yield session
