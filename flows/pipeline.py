"""The DAG: the stages in order, each started only if something of it is missing."""

from typing import Literal

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
from prefect import get_run_logger

from logitfuse.flows.execute import stages_between
from logitfuse.flows.form import with_form
from logitfuse.flows.handed_out import hand_out_stage
from logitfuse.flows.pipeline_page import StageTable
from logitfuse.flows.plan_first import plan_first
from logitfuse.flows.plan_page import publish_plan
from logitfuse.flows.result_artifacts import log_result, publish_result
from logitfuse.flows.session import Session, opened
from logitfuse.flows.stages import STAGE_FLOWS
from logitfuse.tasks.execute import is_up_to_date
from logitfuse.tasks.recipe import Recipe

# As ORDER, which a test holds: a form's drop-down needs them written out.
StageName = Literal[
    "prepare",
    "encode",
    "check",
    "adapt",
    "capture",
    "map",
    "align",
    "fuse",
    "headroom",
    "train",
    "merge",
    "evaluate",
    "suites",
    "report",
]


@with_form("pipeline")
def pipeline(recipe: Recipe, start_at: StageName = "prepare", stop_after: StageName = "report") -> str:
    """Run all stages in order, from corpus to evaluated model; what is up to date is not started.

    Args:
        recipe: Everything that defines the run.
        start_at: First stage to look at; those before must be done.
        stop_after: Last stage to run.
    """
    stages = stages_between(start_at, stop_after)
    with opened(recipe) as session:
        return _run_missing(session, stages)


@with_form("rebuild-fused")
def rebuild_fused(recipe: Recipe) -> str:
    """Bring the fused targets up to date with the corpus, the models and the settings; the target is not trained.

    For a nightly schedule: it ends within seconds where nothing is stale.

    Args:
        recipe: Everything that defines the run.
    """
    with opened(recipe) as session:
        return _run_missing(session, stages_between("prepare", "fuse"))


def _run_missing(session: Session, stages: list[str]) -> str:
    started: list[str] = []
    logger = get_run_logger()
    table = StageTable(session.run.recipe.name, logger.warning)
    with table.showing():
        for stage in stages:
            if is_up_to_date(session.run, [stage]):
                logger.info("%s: up to date", stage)
                table.up_to_date(stage)
                continue
            if not started:
                _plan(session, stages)
            with table.at_work(stage) as note:
                note(_run_stage(session, stage))
            started.append(stage)
    if "report" in stages:
        _show_result(session, fully=bool(started))
    if not started:
        return f"nothing to do: {stages[0]} to {stages[-1]} are up to date"
    kept = len(stages) - len(started)
    rest = {0: "", 1: "; one stage was up to date"}.get(kept, f"; {kept} stages were up to date")
    return f"ran {', '.join(started)}{rest}"


def _plan(session: Session, stages: list[str]) -> None:
    """Say what is ahead before the first stage that has anything to do; end what cannot fit."""
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info(line)
        session.watcher.say(line)

    plan_first(session.run, stages, say, lambda found, line: publish_plan(session.run, found, line, logger.warning))


def _run_stage(session: Session, stage: str) -> str:
    if session.run.recipe.execution.shards_per_run:
        return hand_out_stage(session, stage)  # which tells the log of this run
    summary = str(STAGE_FLOWS[stage](session.run.recipe))
    get_run_logger().info(summary)
    return summary


def _show_result(session: Session, *, fully: bool) -> None:
    """Say on the pipeline's own page what came of it; where nothing was done, its artifacts stand already."""
    logger = get_run_logger()
    if fully:
        publish_result(session.run, logger.warning)
    log_result(session.run, logger.info)
