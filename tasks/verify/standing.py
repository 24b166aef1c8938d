"""What stands in a run's folder: the records that are wanted, also where their files are damaged, and all others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from logitfuse.storage.errors import MadeByNewer, ShardCorrupt, ShardMissing
from logitfuse.storage.records import Record, from_bytes
from logitfuse.storage.store import LocalStore
from logitfuse.tasks.corpus.bad_documents import quarantines
from logitfuse.tasks.engine import Work
from logitfuse.tasks.prepare import listing_path, listing_work
from logitfuse.tasks.quarantine import PLACE, quarantine_work
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

RECORD = re.compile(r"(.+)\.[0-9a-f]{20}\.json")


@dataclass(frozen=True)
class Standing:
    """One unit and its record. `path`: where that is wanted, None while what it is made from is not known."""

    unit: Unit
    path: str | None = None
    record: Record | None = None
    work: Work | None = None
    broken: bool = False  # a record is there, but it cannot be read

    @property
    def stands(self) -> bool:
        """Whether there is something to verify."""
        return self.record is not None or self.broken

    @property
    def judged(self) -> bool:
        """Whether it is known what is wanted in its place; not behind a broken list of the corpus's shards."""
        unlisted = self.unit.stage == PLACE and self.unit.shard is None
        return self.path is not None and not (self.broken and unlisted)


class StandingRun(Run):
    """A run whose records count by themselves: whether their files are whole is what is to be found out."""

    @cached_property
    def shards(self) -> list[Record]:
        listing = standing_record(self.store, listing_path(self.recipe.corpus, self.published_split))
        return [standing_record(self.store, path) for path in listing.counts["shards"]]

    def record(self, unit: Unit) -> Record:
        if unit not in self._records:
            self._records[unit] = standing_record(self.store, self.work(unit).record_path)
        return self._records[unit]


def standing_record(store: LocalStore, path: str) -> Record:
    """Return a record whatever became of its files; raise `ShardMissing` or `ShardCorrupt`."""
    try:
        return from_bytes(store.read(path), path)
    except (FileNotFoundError, NotADirectoryError):
        raise ShardMissing(f"{path} is not there.") from None


def standing_units(run: StandingRun, stage: str) -> list[Standing]:
    """Return where every unit of a stage stands; one of unknown shards stands for a stage that waits for prepare.

    Raises `MadeByNewer` for a record of a later version: what it vouches for is not this one's to judge.
    """
    if stage == "prepare":
        return list(_prepared(run))
    try:
        units = run.units(stage)
    except MadeByNewer:
        raise
    except (ShardMissing, ShardCorrupt):
        return [Standing(Unit(stage))]
    return [_standing(run, unit) for unit in units]


def _prepared(run: StandingRun) -> Iterator[Standing]:
    listing = listing_path(run.recipe.corpus, run.published_split)
    try:
        paths = standing_record(run.store, listing).counts["shards"]
    except ShardMissing:
        yield Standing(Unit(PLACE))
        return
    except MadeByNewer:
        raise
    except ShardCorrupt:
        yield Standing(Unit(PLACE), listing, broken=True)
        return
    for shard, path in enumerate(paths):
        yield _read(run, Unit(PLACE, None, shard), path, None)
    if quarantines(run.recipe.corpus):
        listed = quarantine_work(listing_work(run.recipe.corpus, run.published_split))
        yield _read(run, Unit(PLACE), listed.record_path, None)


def _standing(run: StandingRun, unit: Unit) -> Standing:
    try:
        work = run.work(unit)
    except MadeByNewer:
        raise
    except (ShardMissing, ShardCorrupt):
        return Standing(unit)
    return _read(run, unit, work.record_path, work)


def _read(run: StandingRun, unit: Unit, path: str, work: Work | None) -> Standing:
    try:
        return Standing(unit, path, standing_record(run.store, path), work)
    except ShardMissing:
        return Standing(unit, path, work=work)
    except MadeByNewer:
        raise
    except ShardCorrupt:
        return Standing(unit, path, work=work, broken=True)


def record_paths(store: LocalStore) -> dict[str, list[str]]:
    """Return the paths of all records of a run folder, by the stage's folder they lie in."""
    found: dict[str, list[str]] = {}
    for place in store.folders():
        paths = [path for path in store.names(place, ".json") if RECORD.fullmatch(path.rsplit("/", 1)[-1])]
        found.setdefault(place.split("/")[0], []).extend(paths)
    return found


def is_record(store: LocalStore, path: str) -> bool:
    """Return whether a file is a record, of whatever version; what is kept beside a result may be JSON, too."""
    try:
        return lying_record(store, path) is not None
    except MadeByNewer:
        return True


def lying_record(store: LocalStore, path: str) -> Record | None:
    """Return the record that lies somewhere, None if nothing sound does; raise `MadeByNewer` for a later version's."""
    try:
        return from_bytes(store.read(path), path)
    except MadeByNewer:
        raise
    except (ShardCorrupt, FileNotFoundError, NotADirectoryError):  # what stands beside it, or a lagging listing
        return None


def wanted_keys(run: StandingRun, stage: str, every: list[Standing]) -> set[tuple[str, str]] | None:
    """Return the folder and key of all that the recipe wants of a stage; None where not all of them are known yet.

    `every`: what `standing_units` says. What stands beside a result under its key goes with it.
    """
    if not all(one.judged for one in every):
        return None
    wanted = {one.path for one in every if one.path is not None}
    if stage == "prepare":
        wanted.add(listing_path(run.recipe.corpus, run.published_split))
    return {folder_and_key(path) for path in wanted}


def folder_and_key(path: str) -> tuple[str, str]:
    """Split `train/fused/model.KEY.json`, or one of a result with another name, into where it lies and its key."""
    folder, _, name = path.rpartition("/")
    return folder, name.removesuffix(".json").rpartition(".")[2]
