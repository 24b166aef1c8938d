"""Running a stage's tasks: several at once or in turn, and giving up when it is not the shard that is bad."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from prefect import get_run_logger, runtime
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from logitfuse.flows.artifacts import ProgressArtifacts, artifact_key, publish_table, table_rows
from logitfuse.flows.dead_tasks import end_dead_tasks
from logitfuse.flows.execute import parse_shards, stage_summary
from logitfuse.flows.gpu_slots import ON_ONE_GPU, gpus_of_host, one_gpu
from logitfuse.flows.progress_notes import noting
from logitfuse.flows.session import Session, opened
from logitfuse.flows.stage_progress import StageProgress
from logitfuse.flows.units import TASKS
from logitfuse.flows.work_ahead import stage_progress
from logitfuse.storage.errors import LogitfuseError, ShardMissing, WorkFailed, said
from logitfuse.tasks.all_asked import ALL_ASKED, told_together
from logitfuse.tasks.execute import ONE_AT_A_TIME, chosen_units
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.unit import Unit

FAILURES_THAT_END_A_STAGE = 3  # by then it is not the shard, and each attempt may take minutes
QUEUED_PER_WORKER = 4


def run_stage(
    stage: str, recipe: Recipe, source: str | None = None, shards: str | None = None, redo: bool = False
) -> str:
    """Do a stage's units inside its flow and return a one-line summary; raises what `LogitfuseError` went wrong."""
    chosen = parse_shards(shards)
    with opened(recipe) as session:
        end_dead_tasks(get_run_logger().warning)
        if stage == "prepare":
            units = [Unit("prepare")]
        else:
            units = chosen_units(session.run, stage, source, chosen)
        progress = stage_progress(session.run, stage, units, redo=redo)
        with watched(session, progress), _gpu_of_its_own(stage, recipe.execution.device):
            tally = run_units(stage, units, redo=redo, workers=recipe.execution.workers)
        return told(session, tally, progress)


def _gpu_of_its_own(stage: str, device: str) -> AbstractContextManager[str | None]:
    """Bind a deployment's run, beside which its worker may do others, to one of the host's GPUs."""
    if stage not in ON_ONE_GPU or device == "cpu" or runtime.deployment.id is None:
        return nullcontext()
    return one_gpu(gpus_of_host(), get_run_logger().info)


@contextmanager
def watched(session: Session, progress: StageProgress) -> Iterator[None]:
    """Let a stage's tasks find its progress, and everybody see it, while the block runs."""
    artifacts = ProgressArtifacts(session.run.recipe.name, progress, get_run_logger().warning)
    session.outcomes.clear()
    session.progress, session.artifacts = progress, artifacts
    with session.watcher.showing(progress), noting(session.run.store, progress), artifacts.showing():
        yield


@dataclass
class Tally:
    """What became of a stage's units."""

    stage: str
    total: int
    started: float = field(default_factory=time.monotonic)
    ended: int = 0
    failures: dict[Unit, BaseException] = field(default_factory=dict)

    def note(self, unit: Unit, state: State) -> None:
        """Count one unit; log the traceback of an error that nobody foresaw."""
        self.ended += 1
        if state.is_completed():
            return
        error = state.result(raise_on_failure=False)
        self.failures[unit] = error if isinstance(error, BaseException) else WorkFailed(state.message or "it failed")
        if not isinstance(self.failures[unit], LogitfuseError):
            get_run_logger().error("%s failed", unit, exc_info=self.failures[unit])

    def raise_failures(self) -> None:
        """Raise the one thing that went wrong, or a `WorkFailed` that counts and quotes them."""
        if not self.failures:
            return
        unit, error = next(iter(self.failures.items()))
        if self.stage in ALL_ASKED:
            raise told_together(self.stage, list(self.failures.values()), self.total) from error
        only_one = len(self.failures) == 1 and self.ended == self.total and isinstance(error, LogitfuseError)
        if only_one or all(isinstance(failure, ShardMissing) for failure in self.failures.values()):
            raise error  # it says all there is to say; of missing shards, the first one says what to run before
        left = f", {self.total - self.ended} not tried" if self.ended < self.total else ""
        raise WorkFailed(
            f"stage {self.stage}: {len(self.failures)} of {self.total} failed{left}. "
            f"First {unit}: {said(error).rstrip('.')}. What was done stays; run the stage again to do the rest."
        ) from error


def run_units(stage: str, units: list[Unit], *, redo: bool, workers: int) -> Tally:
    """Run a task for each unit of one stage; give up when several of them have failed."""
    tally = Tally(stage, len(units))
    states = _in_turn(units, redo) if stage in ONE_AT_A_TIME else _at_once(units, redo, workers)
    with closing(states):
        for unit, state in states:
            tally.note(unit, state)
            if len(tally.failures) >= FAILURES_THAT_END_A_STAGE and stage not in ALL_ASKED:
                break
    return tally


def _in_turn(units: list[Unit], redo: bool) -> Generator[tuple[Unit, State]]:
    """Run in the flow's own thread, which Prefect can interrupt when the run is cancelled."""
    for unit in units:
        yield unit, TASKS[unit.stage](unit.stage, unit.source, unit.shard, redo, return_state=True)


def _at_once(units: list[Unit], redo: bool, workers: int) -> Generator[tuple[Unit, State]]:
    """Run several at once, with a short queue: a corpus may have more shards than Prefect likes futures."""
    waiting: deque[tuple[Unit, Any]] = deque()

    def next_state() -> tuple[Unit, State]:
        unit, future = waiting.popleft()
        future.wait()
        return unit, future.state

    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with runner:
        for unit in units:
            parameters = {"stage": unit.stage, "source": unit.source, "shard": unit.shard, "redo": redo}
            waiting.append((unit, runner.submit(TASKS[unit.stage], parameters)))
            if len(waiting) > QUEUED_PER_WORKER * workers:
                yield next_state()
        while waiting:
            yield next_state()


def told(session: Session, tally: Tally, progress: StageProgress) -> str:
    """Tell everybody what became of a stage, and return that line; raise what went wrong in it."""
    states = [outcome.state for outcome in session.outcomes.values()]
    summary = stage_summary(progress, states, len(tally.failures), time.monotonic() - tally.started)
    logger = get_run_logger()
    logger.info(summary)
    session.watcher.say(summary)
    rows = table_rows(session.outcomes, tally.failures, progress)
    publish_table(artifact_key(session.run.recipe.name, tally.stage), rows, summary, logger.warning)
    tally.raise_failures()
    return summary
