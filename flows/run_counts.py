"""How much of a run is there: exactly, for a recipe; or as far as its folder alone tells, without any model."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from logitfuse.flows.completion import STAGES
from logitfuse.storage.errors import ShardCorrupt, ShardMissing
from logitfuse.storage.records import LISTED, Record, from_bytes
from logitfuse.tasks.training.metrics import training_seconds

if TYPE_CHECKING:
    from logitfuse.storage.store import LocalStore
    from logitfuse.tasks.execute import UnitStatus
    from logitfuse.tasks.run import Run

RECORD = re.compile(r"(.+)\.[0-9a-f]{20}\.json")
BY_SHARD = frozenset({"encode", "capture", "align", "fuse"})
TRAINED = frozenset({"train", "adapt"})
OF_LATE = 32  # records whose times make up a speed
RECENT = 900.0  # seconds after which a speed is of the past


@dataclass(frozen=True)
class StageCount:
    """How many results of a stage, or of one source in it, stand; `missing` and `waiting` are not known to a folder."""

    stage: str
    source: str
    done: int
    missing: int = 0
    waiting: int = 0
    damaged: int = 0
    bytes: int = 0
    tokens_per_second: float | None = None
    called: str = ""  # its source for people, where that is known to be another name

    @property
    def total(self) -> int:
        return self.done + self.missing + self.waiting + self.damaged

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass
class Wanted:
    """What a recipe wants, unit by unit. A stage that was complete at one look is not looked at again."""

    run: Run
    reopen: Callable[[], LocalStore] | None = None  # of an object store, whose listings are as old as their store
    found: dict[str, list[UnitStatus]] = field(default_factory=dict)

    def look(self) -> list[StageCount]:
        """Return what stands now."""
        from logitfuse.tasks.execute import stage_status
        from logitfuse.tasks.stages import ORDER

        if self.reopen and self.found:
            self.run.store = self.reopen()
        for stage in ORDER:
            if not self._is_complete(stage):
                self.found[stage] = stage_status(self.run, stage)
        counts = [count for stage, statuses in self.found.items() for count in _counts(stage, statuses)]
        return [replace(count, called=self.run.called(count.stage, count.source) or "") for count in counts]

    def _is_complete(self, stage: str) -> bool:
        return stage in self.found and all(status.state == "done" for status in self.found[stage])

    def is_done(self, counts: Iterable[StageCount]) -> bool:
        """Whether nothing is left to do."""
        return all(self._is_complete(stage) for stage in self.found)

    def metrics(self) -> set[str]:
        """Return the metrics files of the models that the recipe wants, which others may have trained beside."""
        found = set()
        for unit in (status for status in self.units if status.unit.stage in TRAINED and status.state != "waiting"):
            with suppress(ShardMissing, ShardCorrupt):
                made = unit.record or self.run.work(unit.unit)
                found.add(f"{made.place}/metrics.{made.key}.jsonl")
        return found

    @property
    def units(self) -> list[UnitStatus]:
        return [status for statuses in self.found.values() for status in statuses]


def _counts(stage: str, statuses: list[UnitStatus]) -> Iterable[StageCount]:
    for source in dict.fromkeys(status.unit.source or "" for status in statuses):
        mine = [status for status in statuses if (status.unit.source or "") == source]
        states = Counter(status.state for status in mine)
        done, missing, waiting, damaged = (states[state] for state in ("done", "missing", "waiting", "damaged"))
        size = sum(file.bytes for status in mine if status.record for file in status.record.files)
        yield StageCount(stage, source, done, missing, waiting, damaged, size)


@dataclass(frozen=True)
class _Result:
    bytes: int
    tokens: float
    began: float
    ended: float
    seconds: float  # in which the tokens were made


@dataclass
class Standing:
    """What a run's folder holds, whatever recipe it is of. Each record is read once."""

    open: Callable[[], LocalStore]
    _known: dict[str, _Result | None] = field(default_factory=dict)
    _shards: dict[str, tuple[float, int]] = field(default_factory=dict)  # of each listing: when it was made, how many

    def look(self) -> list[StageCount]:
        """Return what stands now; of several results in one place under different keys, the newest counts."""
        store = self.open()
        places = [place for place in store.folders() if place.split("/")[0] in STAGES]
        found = {place: self._place(store, place) for place in places}
        shards = max(self._shards.values(), default=(0.0, 0))[1]
        counts = [_count(place, results, shards) for place, results in found.items() if results]
        return sorted(counts, key=lambda count: STAGES.index(count.stage))

    def is_done(self, counts: Iterable[StageCount]) -> None:
        """Nobody knows without the recipe."""

    def metrics(self) -> None:
        """Of several models in one place nobody knows which is meant: the newest is."""

    def _place(self, store: LocalStore, place: str) -> list[_Result]:
        newest: dict[str, _Result] = {}
        for path in store.names(place, ".json"):
            name = RECORD.fullmatch(path.rpartition("/")[2])
            if name and path not in self._known:
                self._known[path] = self._read(store, path)
            result = self._known.get(path)
            if name and result and (name[1] not in newest or newest[name[1]].began < result.began):
                newest[name[1]] = result
        return list(newest.values())

    def _read(self, store: LocalStore, path: str) -> _Result | None:
        try:
            record = from_bytes(store.read(path), path)
        except (OSError, ShardCorrupt):
            return None
        began = _number(record.made.get("started"))
        if record.stage == LISTED:
            self._shards[path] = began, len(record.counts["shards"])
        if record.stage != path.split("/")[0]:  # a list, or what lies beside the results
            return None
        return _result(record, began)


def _result(record: Record, began: float) -> _Result:
    tokens, made = _number(record.counts.get("tokens")), {name: _number(value) for name, value in record.made.items()}
    seconds = made.get("seconds", 0.0)
    ended = began + seconds
    seconds = training_seconds(made) if record.stage in TRAINED else seconds
    return _Result(sum(f.bytes for f in record.files), tokens, began, ended, seconds)


def _number(value: Any) -> float:
    with suppress(TypeError, ValueError, OverflowError):
        return float(value)
    return 0.0


def _count(place: str, results: list[_Result], shards: int) -> StageCount:
    stage, _, source = place.partition("/")
    missing = max(0, shards - len(results)) if stage in BY_SHARD else 0
    size = sum(result.bytes for result in results)
    return StageCount(stage, source, len(results), missing, bytes=size, tokens_per_second=_speed(results))


def _speed(results: list[_Result]) -> float | None:
    """Return the tokens per second of the last results; None where they are of the past, or count no tokens."""
    late = sorted(results, key=lambda result: result.ended)[-OF_LATE:]
    seconds = late[-1].ended - min(result.ended - result.seconds for result in late)
    tokens = sum(result.tokens for result in late)
    return tokens / seconds if tokens and seconds > 0 and time.time() - late[-1].ended < RECENT else None
