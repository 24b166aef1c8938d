"""A probe: the run's own stages on a little of its text, in a scratch folder, timed. Nothing of the run is written."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from logitfuse.storage.records import Record
from logitfuse.tasks.engine import Progress, silent
from logitfuse.tasks.execute import do_prepare, do_unit, do_units
from logitfuse.tasks.plan.peak import peak_memory
from logitfuse.tasks.plan.sample import Text
from logitfuse.tasks.plan.small_run import small_run
from logitfuse.tasks.plan.stored_bytes import PER_FILE
from logitfuse.tasks.run import Run
from logitfuse.tasks.train import metrics_file
from logitfuse.tasks.training.metrics import read_metrics
from logitfuse.tasks.unit import Unit

TIMES = 3  # that align and fuse are done, the quickest of which counts
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pace:
    """How long something takes and what it leaves: `fixed` seconds once, `per_shard`, and per token or byte."""

    fixed: float = 0.0
    per_shard: float = 0.0
    per_token: float = 0.0
    bytes_per_token: float | None = None


class Held(NamedTuple):
    """The most bytes that one process held, and the tokens that it computed at once."""

    bytes: int
    tokens: int


@dataclass
class Probed:
    """The paces of what was probed, by stage and source (None: any), what was done for it and held meanwhile."""

    paces: dict[tuple[str, str | None], Pace] = field(default_factory=dict)
    tokens: int = 0
    steps: int = 0
    held: dict[tuple[str, str | None], Held] = field(default_factory=dict)


def probe(run: Run, texts: list[Text], say: Say) -> Probed:
    """Run every stage on some of the sample's text, as the recipe says but for less of it; return what it took."""
    found = Probed()
    with TemporaryDirectory(prefix="logitfuse-plan-") as scratch, small_run(run, texts, Path(scratch)) as small:
        _first_stages(small, found, say)
        for label in small.teachers:
            say(f"capture with {label}")
            _captured(small, found, label)
        for unit in small.units("map"):
            say(f"map of {small.tokenizers[unit.needed_source].label}")
            found.paces["map", unit.source] = Pace(fixed=_seconds(_done(small, unit)))
        for stage in ("align", "fuse"):
            say(stage)
            for source in dict.fromkeys(unit.source for unit in small.units(stage)):
                records, compiled = _quickest(small, stage, source)
                _put(found, small, stage, source, records)
                found.paces[stage, source] = replace(found.paces[stage, source], fixed=compiled)
        found.paces["headroom", None] = Pace(fixed=_seconds(_done(small, Unit("headroom"))))
        for label in dict.fromkeys([small.target.label, *small.teachers]):
            say(f"evaluate {label}")
            found.paces["evaluate", label] = _evaluated(_done(small, Unit("evaluate", label)))
        say("train, a few steps")
        found.paces["train", None] = _trained(small, found)
    return found


def _captured(small: Run, found: Probed, label: str) -> None:
    small.unload()  # what a model before held is not this one's
    with peak_memory(small.device) as held:
        records = [_done(small, Unit("capture", label, shard)) for shard in small.shard_numbers]
        most = held()
    _put(found, small, "capture", label, records)
    if most:
        read = max(record.counts["positions"] for record in records)
        found.held["capture", label] = Held(most, min(read, small.recipe.capture.tokens_per_batch))


def _first_stages(small: Run, found: Probed, say: Say) -> None:
    say("prepare and encode")
    prepared = [outcome.record for outcome in do_prepare(small)]
    found.paces["prepare", None] = _fitted(prepared, "bytes", first=0)
    for label in small.tokenizers:
        records = [_done(small, Unit("encode", label, shard)) for shard in small.shard_numbers]
        found.paces["encode", label] = _fitted(records, "tokens", first=0)

    def checking(unit: Unit) -> Progress:
        say(f"check {unit.source}")
        return silent

    for unit, outcome in do_units(small, small.units("check"), progress=checking):  # all that is refused at once
        found.paces["check", unit.source] = Pace(fixed=_seconds(outcome.record))


def _done(small: Run, unit: Unit) -> Record:
    return do_unit(small, unit).record


def _seconds(record: Record) -> float:
    return float(record.made.get("seconds", 0.0))


def _put(found: Probed, small: Run, stage: str, source: str | None, records: list[Record]) -> None:
    """Note a stage's pace: of capture the first shard loads the model, of the others each one reads its map."""
    found.tokens += sum(record.counts["positions"] for record in records) if stage == "capture" else 0
    found.paces[stage, source] = _fitted(records, "positions", first=1 if stage == "capture" else 0)


def _fitted(records: list[Record], count: str, *, first: int) -> Pace:
    """Return a pace: with `first` 1 what the first shard took more than the others is done once.

    Without, seconds are a line over the shards' sizes: a share of them is each shard's own, whatever it holds. Bytes
    are the largest shard's, but for what any file takes.
    """
    sizes = [max(1, int(record.counts[count])) for record in records]
    seconds = [_seconds(record) for record in records]
    small, large = sizes.index(min(sizes)), sizes.index(max(sizes))
    stored = max(0, sum(file.bytes for file in records[large].files) - PER_FILE) / sizes[large]
    if first and len(records) > 1:
        per_token = sum(seconds[1:]) / sum(sizes[1:])
        return Pace(max(0.0, seconds[0] - sizes[0] * per_token), 0.0, per_token, stored)
    difference = sizes[large] - sizes[small]
    slope = max(0.0, (seconds[large] - seconds[small]) / difference) if difference else seconds[0] / sizes[0]
    return Pace(0.0, max(0.0, seconds[small] - slope * sizes[small]), slope, stored)


def _quickest(small: Run, stage: str, source: str | None) -> tuple[list[Record], float]:
    """Do the shards of a quick stage several times over; return each shard's quickest record.

    And the seconds that the very first one took beside: loops are compiled, or read from a cache, once in a process.
    """
    found: list[Record] = []
    compiled = 0.0
    for shard in small.shard_numbers:
        unit = Unit(stage, source, shard)
        records = [do_unit(small, unit, progress=silent, redo=time > 0).record for time in range(TIMES)]
        found.append(min(records, key=_seconds))
        compiled = compiled if shard else max(0.0, _seconds(records[0]) - _seconds(found[0]))
    small.forget()  # what was made again has another record
    return found, compiled


def _evaluated(record: Record) -> Pace:
    tokens = max(1, record.counts["tokens"])
    model = float(record.made.get("model_seconds", 0.0))
    stored = sum(file.bytes for file in record.files) / tokens
    return Pace(max(0.0, _seconds(record) - model), 0.0, model / tokens, stored)


def _trained(small: Run, found: Probed) -> Pace:
    unit = Unit("train", "fused")
    record = _done(small, unit)
    lines = read_metrics(metrics_file(small, small.work(unit)))
    settled = lines[1:] or lines
    found.steps = len(lines)
    if most := record.made.get("peak_memory_bytes"):
        found.held["train", None] = Held(most, small.recipe.train.micro_batch_tokens)
    per_token = statistics.median(line["seconds"] / max(1, line["tokens"]) for line in settled)
    return Pace(max(0.0, _seconds(record) - sum(line["seconds"] for line in lines)), 0.0, per_token)
