"""Verification of a run, stage by stage: everything that stands is read again, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from logitfuse.storage.errors import BadInput
from logitfuse.storage.records import Record
from logitfuse.tasks.engine import Progress, silent
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.faults import Fault, ShardFaults, StageFacts, redo_command
from logitfuse.tasks.verify.plans import plan
from logitfuse.tasks.verify.shard import check_content, check_files, check_record
from logitfuse.tasks.verify.standing import (
    Standing,
    StandingRun,
    folder_and_key,
    is_record,
    record_paths,
    standing_units,
    wanted_keys,
)


class Verifier:
    """Checks one run's stages; `recipe` is what users call the recipe in commands."""

    def __init__(self, run: StandingRun, recipe: str) -> None:
        """Raise `BadInput` if nothing stands yet."""
        self.run, self.recipe = run, recipe
        if run.store.is_empty():
            raise BadInput(f"run folder {run.store.place}: there is nothing to verify. Run: logitfuse run {recipe}")
        self.faults: list[Fault] = []
        self._known: set[Fault] = set()
        self.stale: list[str] = []
        self._files: dict[str, list[Fault]] = {}  # by record path

    def stage(self, stage: str, source: str | None = None, progress: Progress = silent) -> StageFacts:
        """Verify a stage, or only a source's part of it; its faults are added to `faults`."""
        every = standing_units(self.run, stage)
        chosen = [standing for standing in every if source is None or standing.unit.source in self._labels(source)]
        standing = [one for one in chosen if one.stands]
        before, done, rows = len(self.faults), 0, 0
        with ThreadPoolExecutor(self.run.recipe.execution.workers) as pool:
            for found, count in pool.map(self.unit, standing):
                self._add(found)
                rows += count
                done += 1
                progress(done, len(standing))
        size = sum(file.bytes for one in standing if one.record for file in one.record.files)
        missing = len(chosen) - len(standing)
        stale = self._stale(stage, every) if source is None else None
        return StageFacts(stage, len(standing), missing, rows, size, len(self.faults) - before, stale)

    def check_source(self, source: str) -> None:
        """Raise `BadInput` if no stage has such a source."""
        known = {one.unit.source for stage in ORDER for one in standing_units(self.run, stage)} - {None}
        if not self._labels(source) & known:
            raise BadInput(f"--source {source}: there is no such source. Known: {', '.join(sorted(map(str, known)))}.")

    def _labels(self, source: str) -> set[str | None]:
        model = self.run.teachers.get(source) or (self.run.target if source == self.run.target.label else None)
        return {source, model.tokenizer_label} if model else {source}

    def unit(self, standing: Standing) -> tuple[list[Fault], int]:
        """Check one unit; return its faults and its rows."""
        record, unit = standing.record, standing.unit
        if record is None:
            return [self._broken(standing)], 0
        found = self._found(unit, record)
        if f"{record.place}/{record.file_name}" != standing.path:
            found.whole(f"its record lies at {standing.path}, where another result's should")
        elif standing.work:
            check_record(record, standing.work, found)
        faults = [*found.faults, *self._file_faults(record)]
        if faults or not (checks := plan(self.run, unit, self._sound)):
            return faults, 0
        others = {name: b for name, b in checks.beside.items() if all(map(self._sound, b.records))}
        damaged = [f for b in checks.beside.values() for record in b.records for f in self._file_faults(record)]
        rows = check_content(self.run.store, record, checks, others, found)
        return [*found.faults, *damaged], rows

    def _broken(self, standing: Standing) -> Fault:
        path = str(standing.path)
        redo = f"{self.run.store.removal(path)} && {redo_command(self.recipe, standing.unit)}"
        return Fault(standing.unit, path, "the record is damaged", redo)

    def _file_faults(self, record: Record) -> list[Fault]:
        path = f"{record.place}/{record.file_name}"
        if path not in self._files:
            source = record.place.split("/", 1)[1] if "/" in record.place else None
            found = self._found(Unit(record.stage, source, record.shard), record)
            check_files(self.run.store, record, found)
            self._files[path] = found.faults
        return self._files[path]

    def _sound(self, record: Record) -> bool:
        return not self._file_faults(record)

    def _found(self, unit: Unit, record: Record) -> ShardFaults:
        return ShardFaults(unit, record.label, redo_command(self.recipe, unit))

    def _add(self, found: Iterable[Fault]) -> None:
        for fault in found:
            if fault not in self._known:  # a damaged shard is met again by all that are compared with it
                self._known.add(fault)
                self.faults.append(fault)

    def _stale(self, stage: str, every: list[Standing]) -> int | None:
        """Note what stands and is not asked for; None where the keys that are asked for are not known."""
        if (kept := wanted_keys(self.run, stage, every)) is None:
            return None
        lying: dict[tuple[str, str], list[str]] = {}
        for path in record_paths(self.run.store).get(stage, []):
            if (key := folder_and_key(path)) not in kept:
                lying.setdefault(key, []).append(path)
        self.stale += [self._record_of(paths) for paths in lying.values()]
        return len(lying)

    def _record_of(self, paths: list[str]) -> str:
        """Return which of the files under one key is the record: what its maker keeps beside it may be JSON, too."""
        return next((path for path in paths if len(paths) > 1 and is_record(self.run.store, path)), paths[0])


def first_fault(run: Run, unit: Unit) -> Fault | None:
    """Return a fault of what a unit reads, directly or not: of the same shard, or of no shard; None without any."""
    verifier = Verifier(StandingRun(run.recipe, run.read), "RECIPE")
    for stage in ORDER[: ORDER.index(unit.stage)]:
        for standing in standing_units(verifier.run, stage):
            if standing.stands and (None in (unit.shard, standing.unit.shard) or standing.unit.shard == unit.shard):
                faults, _ = verifier.unit(standing)
                if faults:
                    return faults[0]
    return None
