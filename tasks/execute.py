"""Doing a stage's units, with or without Prefect around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from logitfuse.storage.errors import BadInput, LogitfuseError, ShardCorrupt, ShardMissing
from logitfuse.storage.records import Record
from logitfuse.storage.system_errors import in_words
from logitfuse.tasks.all_asked import ALL_ASKED, told_together
from logitfuse.tasks.blame import blaming
from logitfuse.tasks.engine import Outcome, Progress, perform, silent
from logitfuse.tasks.prepare import prepare_corpus
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.train_hosts import TRAINING, follow, is_follower
from logitfuse.tasks.unit import Unit

# These hold a model in memory or fill the machine on their own; the others may run several shards at once.
ONE_AT_A_TIME = frozenset({"check", "adapt", "capture", "train", "merge", "evaluate", "suites"})
Say = Callable[[str], None]


@dataclass(frozen=True)
class UnitStatus:
    """Where one unit stands: done, missing, or waiting for what it reads."""

    unit: Unit
    state: Literal["done", "missing", "waiting", "damaged"]
    record: Record | None = None
    why: str = ""


def do_unit(
    run: Run, unit: Unit, *, progress: Progress = silent, say: Say | None = None, redo: bool = False
) -> Outcome:
    """Make one unit's result unless it stands; raises the stage's own errors."""
    if unit.stage in TRAINING and is_follower(run):
        return follow(run, unit, progress)
    with blaming(run, unit):
        return perform(run.store, run.work(unit), progress=progress, say=say, redo=redo)


def do_prepare(run: Run, *, progress: Progress = silent, redo: bool = False) -> list[Outcome]:
    """Make the corpus's shards that are missing."""
    with in_words("prepare", run.store.root):
        outcomes = prepare_corpus(run.recipe.corpus, run.store, run.published_split, progress=progress, redo=redo)
    run.forget()
    return outcomes


def stage_status(run: Run, stage: str) -> list[UnitStatus]:
    """Say for every unit of a stage where it stands; a stage whose shards are not known yet has one waiting unit."""
    if stage == "prepare":
        try:
            return [UnitStatus(Unit("prepare", None, r.shard), "done", r) for r in run.shards]
        except ShardMissing as error:
            return [UnitStatus(Unit("prepare"), "missing", None, str(error))]
        except ShardCorrupt as error:
            return [UnitStatus(Unit("prepare"), "damaged", None, str(error))]
    try:
        units = run.units(stage)
    except (ShardMissing, ShardCorrupt) as error:
        return [UnitStatus(Unit(stage), "waiting", None, str(error))]
    return [unit_status(run, unit) for unit in units]


def unit_status(run: Run, unit: Unit) -> UnitStatus:
    """Say where one unit stands."""
    try:
        run.work(unit)
    except (ShardMissing, ShardCorrupt) as error:
        return UnitStatus(unit, "waiting", None, str(error))
    try:
        return UnitStatus(unit, "done", run.record(unit))
    except ShardMissing as error:
        return UnitStatus(unit, "missing", None, str(error))
    except ShardCorrupt as error:
        return UnitStatus(unit, "damaged", None, str(error))


def is_up_to_date(run: Run, stages: Iterable[str] = ORDER) -> bool:
    """Whether nothing is left to do in these stages."""
    return all(status.state == "done" for stage in stages for status in stage_status(run, stage))


def chosen_units(run: Run, stage: str, source: str | None = None, shards: tuple[int, int] | None = None) -> list[Unit]:
    """Return a stage's units for one source (a model's name) and a range of shards, both ends included.

    Raises `BadInput` when the source or the shards do not exist.
    """
    units = run.units(stage)
    if source is not None:
        units = _of_source(run, units, source)
    if shards is not None:
        low, high = shards
        units = [unit for unit in units if unit.shard is None or low <= unit.shard <= high]
        if not units or low > high:
            raise BadInput(f"--shards {low}-{high}: stage {stage} has shards 0-{len(run.shards) - 1}.")
    return units


def _of_source(run: Run, units: list[Unit], source: str) -> list[Unit]:
    model = run.teachers.get(source) or (run.target if source == run.target.label else None)
    labels = {source, model.tokenizer_label} if model else {source}
    chosen = [unit for unit in units if unit.source is None or unit.source in labels]
    if not chosen or (model is None and not any(unit.source == source for unit in units)):
        known = sorted({unit.source for unit in units if unit.source} | set(run.teachers))
        raise BadInput(f"--source {source}: there is no such source. Known: {', '.join(known)}.")
    return chosen


def do_units(
    run: Run,
    units: list[Unit],
    *,
    progress: Callable[[Unit], Progress] = lambda unit: silent,
    say: Say | None = None,
    redo: bool = False,
) -> Iterator[tuple[Unit, Outcome]]:
    """Do units, several shards at once where the stage allows it; yield each as it ends, in the given order."""
    if not units:
        return
    workers = 1 if units[0].stage in ONE_AT_A_TIME else run.recipe.execution.workers

    def one(unit: Unit) -> Outcome:
        return do_unit(run, unit, progress=progress(unit), say=say, redo=redo)

    if units[0].stage in ALL_ASKED:
        yield from _all_asked(units, one)
        return
    if workers == 1:
        yield from ((unit, one(unit)) for unit in units)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, unit) for unit in units]
        try:
            for unit, future in zip(units, futures, strict=True):
                yield unit, future.result()
        finally:
            for future in futures:
                future.cancel()


def _all_asked(units: list[Unit], one: Callable[[Unit], Outcome]) -> Iterator[tuple[Unit, Outcome]]:
    """Do units of which one that is refused hides no other's result; raise what was refused at the end."""
    refused: list[LogitfuseError] = []
    for unit in units:
        try:
            outcome = one(unit)
        except LogitfuseError as error:
            refused.append(error)
        else:
            yield unit, outcome
    if refused:
        raise told_together(units[0].stage, refused, len(units))
