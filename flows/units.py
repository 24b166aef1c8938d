"""One Prefect task per unit of a stage."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed
from prefect.tasks import Task

from logitfuse.flows.execute import note_prepared, summary
from logitfuse.flows.session import Session, current
from logitfuse.flows.stage_progress import StageProgress
from logitfuse.flows.training_plot import training_shown
from logitfuse.storage.errors import LogitfuseError, StoreFailed, WorkFailed, said
from logitfuse.tasks.all_asked import ALL_ASKED
from logitfuse.tasks.engine import Outcome
from logitfuse.tasks.execute import do_prepare, do_unit
from logitfuse.tasks.plan.text_warnings import prepared_lines
from logitfuse.tasks.quarantine import quarantine_line
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit

# Trying again helps against a busy disk, a network file system or another process on the GPU, never against these.
LASTING = (
    LogitfuseError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)
PASSING = (WorkFailed, StoreFailed)


def may_pass(task: Task[Any, Any], task_run: TaskRun, state: State) -> bool:
    """Whether a failed task is worth another attempt; training's child process goes on from its last checkpoint.

    A result that an object store did not take is sent, not made again.
    """
    return isinstance(state.data, PASSING) or not isinstance(state.data, LASTING)


def unit_name(parameters: dict[str, Any]) -> str:
    """Name a task run after its unit: capture-gemma3-270m-00003."""
    stage, source, shard = (parameters.get(name) for name in ("stage", "source", "shard"))
    return "-".join(
        str(part) for part in (stage, source, None if shard is None else f"{shard:05d}") if part is not None
    )


def run_unit(stage: str, source: str | None = None, shard: int | None = None, redo: bool = False) -> State:
    """Make one unit unless it stands, and say in a line what became of it.

    Why it failed is said at once only where the stage goes on: otherwise the error that ends it tells that.
    """
    session, unit = current(), Unit(stage, source, shard)
    assert session.progress is not None, "a stage's flow begins with its progress"
    try:
        return _do(session, session.progress, unit, redo)
    except Exception as error:
        session.progress.finish(unit, "failed")
        soon = unit.stage in ALL_ASKED or not session.progress.goes_on()
        tells_itself = isinstance(error, LogitfuseError) and not isinstance(error, PASSING)
        session.watcher.finish(unit, f"{unit}: failed" + ("" if soon and tells_itself else f": {said(error)}"))
        if isinstance(error, LogitfuseError):  # returned, not raised: Prefect logs a traceback of what is raised
            return Failed(message=str(error), data=error)
        raise


def _completed(line: str) -> State[str]:
    """Return a state that says what a unit is, and so does Prefect's line in the log: one for each shard."""
    return Completed(message=line, data=line.partition("\n")[0])


def _do(session: Session, shown: StageProgress, unit: Unit, redo: bool) -> State[str]:
    progress = shown.report(unit)
    if session.artifacts:
        session.artifacts.follow(unit)
    if unit.stage == "prepare":
        return _note_prepared(session, shown, do_prepare(session.run, progress=progress, redo=redo))
    logger = get_run_logger()

    def tell(line: str) -> None:
        logger.info(line)
        session.watcher.say(line)

    with training_shown(session.run, unit, tell, logger.warning):
        outcome = do_unit(session.run, unit, progress=progress, say=logger.info, redo=redo)
    shown.finish(unit, outcome.state, outcome.record.counts)
    session.outcomes[unit] = outcome
    line = summary(unit, outcome, shown.tokens_made(unit))
    session.watcher.finish(unit, line)
    return _completed(line)


def _note_prepared(session: Session, shown: StageProgress, outcomes: list[Outcome]) -> State[str]:
    done = note_prepared(shown, outcomes)
    session.outcomes |= {Unit("prepare", None, outcome.record.shard): outcome for outcome in outcomes}
    for outcome in outcomes:
        session.watcher.finish(Unit("prepare"), summary(outcome.record.label, outcome))
    if left_out := quarantine_line(session.run):
        session.watcher.say(left_out)
        get_run_logger().warning(left_out)
    for line in prepared_lines(session.run):
        session.watcher.say(line)
        get_run_logger().info(line)
    return _completed(f"prepare: {done} shards done, {len(outcomes) - done} up to date")


TASKS = {
    stage: task(
        name=stage,
        task_run_name=unit_name,  # type: ignore[arg-type]  # their protocol has a classmethod no function has
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2,
        retry_delay_seconds=[1.0, 10.0],
        retry_condition_fn=may_pass,
    )(run_unit)
    for stage in ORDER
}
