"""A stage of the pipeline done by deployment runs: shown, counted and failed as one that is done here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefect import get_run_logger

from logitfuse.flows.deployment_runs import DeploymentRuns
from logitfuse.flows.fan_out import Tally, told, watched
from logitfuse.flows.hand_out import Handing
from logitfuse.flows.portions import Portion, by_host, portions
from logitfuse.flows.session import Session
from logitfuse.flows.stages import STAGE_FLOWS
from logitfuse.flows.work_ahead import stage_progress
from logitfuse.tasks.engine import Outcome, State
from logitfuse.tasks.execute import stage_status, unit_status
from logitfuse.tasks.execution import Execution
from logitfuse.tasks.train_hosts import TRAINING
from logitfuse.tasks.unit import Unit


def hand_out_stage(session: Session, stage: str) -> str:
    """Let the workers of a stage's queue do what is missing of it, and return a one-line summary.

    Raises `WorkFailed` with what the runs said, once all others have ended, or three have failed.
    """
    run = session.run
    units = [Unit("prepare")] if stage == "prepare" else run.units(stage)
    progress = stage_progress(run, stage, units)
    tally = Tally(stage, len(units))
    with watched(session, progress):
        shown = Shown(session, tally)
        handing = Handing(DeploymentRuns(run.recipe), shown, lambda chosen: missing_units(session, chosen))
        missing = missing_units(session, units)
        for unit in units:
            if unit not in missing:
                shown.kept(unit)
        tally.failures |= handing.do(_cut(stage, missing, run.recipe.execution))
    tally.ended = len(session.outcomes) + len(tally.failures)
    return told(session, tally, progress)


def _cut(stage: str, missing: list[Unit], execution: Execution) -> list[Portion]:
    hosts = execution.hosts
    if stage in TRAINING and hosts.count > 1 and hosts.given_by == "settings":
        return by_host(missing, hosts.count)
    return portions(missing, execution.shards_per_run, STAGE_FLOWS[stage].parameters.properties.keys())


def missing_units(session: Session, units: Iterable[Unit]) -> list[Unit]:
    """Return those of the units of which no record stands; looked up afresh, because others write them."""
    missing = []
    for unit in units:
        if unit.stage == "prepare":
            session.run.forget()
            stands = all(status.state == "done" for status in stage_status(session.run, "prepare"))
        else:
            stands = unit_status(session.run, unit).state == "done"
        if not stands:
            missing.append(unit)
    return missing


@dataclass
class Shown:
    """Tells the session, the progress bars and the log how the runs get on."""

    session: Session
    tally: Tally

    def begins(self, portion: Portion) -> None:
        """Note that a worker has begun a portion."""
        assert self.session.progress
        for unit in portion.units:
            self.session.progress.report(unit)

    def kept(self, unit: Unit) -> None:
        """Note a unit that stood before."""
        self._note(unit, "kept")

    def done(self, unit: Unit) -> None:
        """Note a unit that a run has made."""
        self._note(unit, "done")

    def _note(self, unit: Unit, state: State) -> None:
        assert self.session.progress
        run = self.session.run
        records = run.shards if unit.stage == "prepare" else [run.record(unit)]
        self.session.progress.finish(unit, state, records[0].counts)
        for record in records:
            made = Unit("prepare", None, record.shard) if unit.stage == "prepare" else unit
            self.session.outcomes[made] = Outcome(state, record, float(record.made.get("seconds", 0)))

    def failed(self, unit: Unit) -> None:
        """Note a unit that no run could make."""
        assert self.session.progress
        self.session.progress.finish(unit, "failed")

    def say(self, line: str) -> None:
        """Tell the log and whoever watches."""
        get_run_logger().info(line)
        self.session.watcher.say(line)
