"""Doing a study's jobs: for each the stages that its model needs, in order, and nothing that stands already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from logitfuse.storage.errors import LogitfuseError, ShardMissing
from logitfuse.tasks.evaluate import contestants
from logitfuse.tasks.execute import do_prepare, do_unit, do_units
from logitfuse.tasks.study.settings import CONTROL, ENSEMBLE, FUSED
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from logitfuse.tasks.engine import Progress
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.study.opened import Opened
    from logitfuse.tasks.study.plan import Job

HEADROOM = Unit("headroom")


class Watch(Protocol):
    """Somebody who is shown the work while it goes on."""

    def stage(
        self, run: Run, stage: str, units: Sequence[Unit], /
    ) -> AbstractContextManager[Callable[[Unit], Progress]]: ...

    def say(self, line: str, /) -> None: ...


@dataclass
class Finished:
    """What became of a study's jobs: how many stood already, and the messages of those that failed, by job."""

    kept: int = 0
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def do_jobs(jobs: Sequence[Job], opened: Opened, watch: Watch) -> Finished:
    """Do what is missing of all jobs. One that fails is told of, and the others go on."""
    found = Finished()
    for number, job in enumerate(jobs):
        run, left = opened.run(job), f"[{number + 1}/{len(jobs)}]"
        try:
            if stands(run, job):
                found.kept += 1
                continue
            watch.say(f"{left} {job}")
            do_job(run, job, watch)
            found.done += 1
        except LogitfuseError as error:
            found.failed[str(job)] = str(error)
            watch.say(f"{left} {job}: failed. {error}")
        finally:
            run.unload()
    return found


def stands(run: Run, job: Job) -> bool:
    """Return whether all that a job makes is there with the wanted keys."""
    try:
        for unit in wanted_units(job):
            run.record(unit)
    except ShardMissing:
        return False
    return True


def wanted_units(job: Job) -> list[Unit]:
    """Return what a job ends with: the evaluation of its model, and the headroom where there are fused targets."""
    headroom = [HEADROOM] if job.label in (None, FUSED) else []
    return [*headroom, *([job.model] if job.model else [])]


def do_job(run: Run, job: Job, watch: Watch) -> None:
    """Do the stages of one job until its model is evaluated, or its headroom measured."""
    for unit in wanted_units(job):
        make(run, unit, watch)


def make(run: Run, unit: Unit, watch: Watch) -> None:
    """Make one unit, and before it stage after stage until what it reads is there; raises the stages' errors."""
    if _is_ensemble(run, unit):
        for each in contestants(run):
            if each.role in ("target", "source"):
                make(run, Unit("evaluate", each.label), watch)
    for stage in _stages_before(unit.stage):
        if is_ready(run, unit):
            break
        _do_stage(run, stage, needed_units(run, stage, unit), watch)
    _do_stage(run, unit.stage, [unit], watch)


def is_ready(run: Run, unit: Unit) -> bool:
    """Return whether all that a unit reads is there."""
    try:
        run.work(unit)
    except ShardMissing:
        return False
    return True


def _is_ensemble(run: Run, unit: Unit) -> bool:
    return unit.stage == "evaluate" and unit.source == ENSEMBLE


def _stages_before(stage: str) -> Iterator[str]:
    from logitfuse.tasks.stages import ORDER

    yield from ORDER[: ORDER.index(stage)]


def needed_units(run: Run, stage: str, unit: Unit) -> list[Unit]:
    """Return the units of a stage that a unit needs: all of them, but of the trained arms only its own."""
    if stage == "prepare":
        return [Unit("prepare")]
    units = run.units(stage)
    if stage != "train":
        return units
    own = [arm for arm in units if arm.source == unit.source]
    return own or [arm for arm in units if arm.source not in (FUSED, CONTROL)]


def _do_stage(run: Run, stage: str, units: list[Unit], watch: Watch) -> None:
    if not units or all(_stands(run, unit) for unit in units):
        return
    with watch.stage(run, stage, units) as progress:
        if stage == "prepare":
            do_prepare(run, progress=progress(units[0]))
        elif len(units) == 1:
            do_unit(run, units[0], progress=progress(units[0]), say=watch.say)
        else:
            for _ in do_units(run, units, progress=progress, say=watch.say):
                pass


def _stands(run: Run, unit: Unit) -> bool:
    try:
        if unit.stage == "prepare":
            return bool(run.shards)
        run.record(unit)
    except ShardMissing:
        return False
    return True
