"""The files of a finished run by their kind, and who must notice when one of them is damaged."""

from __future__ import annotations

import random
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from damages import damaged
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.storage.errors import ShardCorrupt, ShardMissing
from logitfuse.storage.records import Record
from logitfuse.storage.shards import verified_folder, verified_path
from logitfuse.tasks.execute import do_unit
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.faults import Fault
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.verifier import Verifier


@dataclass(frozen=True)
class Vouched:
    """A file of a unit's result: one that its record vouches for, or the record itself."""

    unit: Unit
    record: Record
    path: Path
    kind: str  # such as capture/record, capture/.parquet, train/model.safetensors


@dataclass
class DamagedFiles:
    """A finished run whose files are damaged one by one; `unnoticed` tells what nobody noticed."""

    content: dict[str, Any]
    recipe: Path
    draw: random.Random
    files: dict[str, list[Vouched]] = field(default_factory=lambda: defaultdict(list))  # by kind
    unnoticed: list[str] = field(default_factory=list)
    noticed: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and way

    def __post_init__(self) -> None:
        run = self._open()
        for unit, record in _results(run):
            self._add(unit, record, run.store.local(record.path), "record")
            for file in record.files:
                path = run.store.local(f"{record.place}/{file.name}")
                self._add(unit, record, path, path.name if "/" in file.name else path.suffix)

    def _add(self, unit: Unit, record: Record, path: Path, name: str) -> None:
        kind = f"{unit.stage}/{name}"
        self.files[kind].append(Vouched(unit, record, path, kind))

    def _open(self) -> Run:
        return Run(parse_recipe(self.content, "test"))

    def look(self, kind: str) -> None:
        """Damage a file of a kind: `verify` must name it, and whoever reads it must refuse."""
        file = self.draw.choice(self.files[kind])
        others = [other.path for other in self.files[kind] if other is not file]
        with damaged(file.path, others, self.draw) as way:
            if not self._faults(file):
                self.unnoticed.append(f"{file.path.name} of {file.unit}, {way}: verify found nothing")
            if not self._refused(file):
                self.unnoticed.append(f"{file.path.name} of {file.unit}, {way}: it was read")
        self.noticed[kind, way] += 1

    def make_from(self, kind: str) -> None:
        """Damage a file of a kind and do again what is made from it: that must fail, and what stood is put back."""
        file = self.draw.choice(self.files[kind])
        for unit in self._made_from(file.record):
            record = self._open().record(unit)
            standing = self._open().store.read(record.path)
            with damaged(file.path, [], self.draw) as way:
                try:
                    do_unit(self._open(), unit, redo=True)
                    self.unnoticed.append(f"{file.path.name} of {file.unit}, {way}: {unit} was made from it")
                except (ShardCorrupt, ShardMissing):
                    self.noticed[kind, "made from"] += 1
            self._open().store.create(record.path, standing)

    def repair(self, kind: str) -> None:
        """Damage a file of a kind and type what `verify` says: the file must be what it was."""
        file = self.draw.choice(self.files[kind])
        before = file.path.read_bytes()
        with damaged(file.path, [], self.draw) as way:
            for fault in self._faults(file)[:1]:
                _type(fault.redo)
            if file.path.read_bytes() != before and not _holds_times(file):
                self.unnoticed.append(f"{file.path.name} of {file.unit}, {way}: not repaired")
            elif self._faults(file):
                self.unnoticed.append(f"{file.path.name} of {file.unit}, {way}: still at fault")
            before = file.path.read_bytes()
        file.path.write_bytes(before)
        self.noticed[kind, "repaired"] += 1

    def _faults(self, file: Vouched) -> list[Fault]:
        verifier = Verifier(StandingRun(parse_recipe(self.content, "test")), str(self.recipe))
        verifier.stage(file.unit.stage)
        return [fault for fault in verifier.faults if fault.unit == file.unit and "--redo" in fault.redo]

    def _refused(self, file: Vouched) -> bool:
        """Whether a reader gets an error that says what to do, instead of the file's bytes."""
        try:
            _read(self._open(), file.unit)
        except (ShardCorrupt, ShardMissing) as error:
            return any(words in str(error) for words in ("logitfuse stage", "run its stage again"))
        return False

    def _made_from(self, record: Record) -> list[Unit]:
        """Return the units that read a result's files; the report is made of what records say of most."""
        run = self._open()
        units = (unit for stage in ORDER[1:] if stage != "report" for unit in run.units(stage))
        return [unit for unit in units if record.checksum in [made.checksum for made in run.work(unit).inputs]]


def _results(run: Run) -> Iterator[tuple[Unit, Record]]:
    for number, record in enumerate(run.shards):
        yield Unit("prepare", None, number), record
    for stage in ORDER[1:]:
        for unit in run.units(stage):
            yield unit, run.record(unit)


def _holds_times(file: Vouched) -> bool:
    return file.path == file.path.parent / file.record.file_name or file.unit.stage == "report"


def _read(run: Run, unit: Unit) -> None:
    """Read a result as all stages do."""
    record = run.shards[unit.needed_shard] if unit.stage == "prepare" else run.record(unit)
    if "/" in record.files[0].name:
        verified_folder(run.store, record)
    else:
        verified_path(run.store, record)


def _type(line: str) -> None:
    """Run commands joined by && as a shell would."""
    for command in line.split(" && "):
        name, *arguments = shlex.split(command)
        if name == "rm":
            Path(*arguments).unlink()
        else:
            done = CliRunner().invoke(app, [*arguments, "--plain"])
            assert done.exit_code == 0, f"{command}: {done.output}"
