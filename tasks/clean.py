"""Results that no key of a recipe wants any more: which they are, why, and how they go."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from logitfuse.storage.errors import BadInput, MadeByNewer
from logitfuse.storage.locks import only_one, unless_held
from logitfuse.storage.records import Record
from logitfuse.storage.settings import changed_settings
from logitfuse.storage.store import LocalStore
from logitfuse.storage.under_key import UnderKey
from logitfuse.tasks.verify.standing import Standing, StandingRun, lying_record, standing_units, wanted_keys

LONGEST_VALUE = 60
UNFINISHED = "not finished, or left by what was killed"
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Stale:
    """What lies under a key that is not wanted. `finished`: a record vouches for it; `why`: what differs, in words."""

    found: UnderKey
    finished: bool
    why: str


@dataclass(frozen=True)
class StageStale:
    """What a stage has that a recipe does not want; None while it is not known what that wants of the stage.

    `wanted`: how many results it does want, `standing`: how many of these are there.
    """

    stage: str
    stale: tuple[Stale, ...] | None
    wanted: int
    standing: int
    newer: int = 0  # results of a later version, which are not this one's to judge

    @property
    def is_all_there_is(self) -> bool:
        """Whether nothing that the recipe wants has taken the place of what is stale: it may be a slip of the pen."""
        return bool(self.stale and self.wanted and not self.standing)

    @property
    def bytes(self) -> int:
        return sum(one.found.bytes for one in self.stale or ())


def stale_of(run: StandingRun, stage: str) -> StageStale:
    """Look for what a stage has under keys that the recipe does not want; reads records only."""
    every = standing_units(run, stage)
    standing = sum(one.stands for one in every)
    kept = wanted_keys(run, stage, every)
    if kept is None:
        return StageStale(stage, None, len(every), standing)
    folders = [folder for folder in run.store.folders() if folder.split("/")[0] == stage]
    lying = [found for folder in folders for found in run.store.under_keys(folder)]
    stale, newer = [], 0
    for found in (found for found in lying if (found.folder, found.key) not in kept):
        try:
            record = _record(run.store, found)
        except MadeByNewer:
            newer += 1
        else:
            stale.append(Stale(found, record is not None, difference(record, every) if record else UNFINISHED))
    return StageStale(stage, tuple(stale), len(every), standing, newer)


def _record(store: LocalStore, found: UnderKey) -> Record | None:
    """Return the record that lies there, damaged ones left out; raise `MadeByNewer`."""
    return next((record for path in found.records if (record := lying_record(store, path))), None)


def difference(record: Record, every: Iterable[Standing]) -> str:
    """Say in words why a result is not among those that are wanted of its stage."""
    alike = [one for one in every if one.path is not None and one.path.rpartition("/")[0] == record.place]
    alike.sort(key=lambda one: one.unit.shard != record.shard)
    if not alike:
        return f"{record.place} is no part of this recipe"
    wanted = _made_from(alike[0])
    if wanted is None:
        return "other text or settings"
    if names := _differing(record.settings, *wanted[:2]):
        return f"other settings: {', '.join(names)}"
    if others := sorted(_names_that_differ(record.fingerprints, wanted[2])):
        return f"differs in: {', '.join(others)}"
    if record.inputs != wanted[3]:
        return "made from other results"
    gone = all(one.unit.shard != record.shard for one in alike)
    return "no such shard any more" if gone else "another version of the stage"


def _made_from(one: Standing) -> tuple[Facts, Facts, Facts, list[str]] | None:
    """Return what is wanted in a unit's place: settings that are set, defaults, fingerprints and inputs."""
    if (work := one.work) is not None:
        inputs = [record.checksum for record in work.inputs]
        if work.settings is None:
            return {}, {}, work.fingerprints, inputs
        return changed_settings(work.settings), type(work.settings)().model_dump(mode="json"), work.fingerprints, inputs
    if one.record is not None:
        return one.record.settings, {}, one.record.fingerprints, one.record.inputs
    return None


def _differing(was: Facts, now: Facts, defaults: Facts) -> list[str]:
    """Name settings that differ, each with what it was and what is wanted: rule=weighted, now avg_ce."""
    old, new, unset = dict(_flat(was)), dict(_flat(now)), dict(_flat(defaults))
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [f"{name}={_shown(name, old, unset)}, now {_shown(name, new, unset)}" for name in names]


def _shown(name: str, given: Mapping[str, str], defaults: Mapping[str, str]) -> str:
    return given.get(name, defaults.get(name, "its default"))


def _flat(settings: Facts, begin: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{begin}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{begin}{name}", text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _names_that_differ(was: Facts, now: Facts) -> Iterator[str]:
    return (name for name in was.keys() | now.keys() if was.get(name) != now.get(name))


def refuse_at_work(store: LocalStore) -> None:
    """Raise `BadInput` if a process holds a lock of the run's folder on this machine, or where its locks reach."""
    try:
        for lock in sorted(store.local(".locks/clean.lock").parent.glob("*.lock")):
            with unless_held([lock]):
                pass
    except BadInput as error:
        raise BadInput(
            f"run folder {store.place}: {error} Nothing is deleted beside it: wait for it, or stop it."
        ) from None


def remove_stale(
    store: LocalStore, stale: Sequence[Stale], removed: Callable[[Stale], None] = lambda stale: None
) -> None:
    """Delete results, each with its record first, and tell `removed` of each; ended anywhere, the rest is stale still.

    Raises `BadInput` where another process is at work on one of them.
    """
    refuse_at_work(store)
    locks = store.local(".locks/clean.lock")
    with only_one(locks):
        for one in stale:
            named = f"{glob.escape(one.found.folder.replace('/', '.'))}.*.{one.found.key}.lock"
            with unless_held(sorted(locks.parent.glob(named))):
                store.remove_under_key(one.found)
            removed(one)
