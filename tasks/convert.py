"""Captured shards from one form to the other: the same results under the key that the other codec has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from logitfuse.storage.capture_rows import Codec
from logitfuse.storage.convert import check_converted, to_compact, to_plain
from logitfuse.storage.errors import ShardMissing
from logitfuse.storage.records import Record
from logitfuse.storage.shards import verified_path
from logitfuse.tasks.engine import MADE, Counts, Progress, Work, find, perform, silent
from logitfuse.tasks.execute import chosen_units
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

State = Literal["converted", "kept", "missing"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Converted:
    """What became of one shard. `removed`: its other form was there, and no longer is."""

    unit: Unit
    state: State
    record: Record | None = None  # of the wanted form
    other: Record | None = None  # of the form it was made from, or that still stands beside it
    removed: bool = False


def convert_units(
    run: Run,
    to: Codec,
    source: str | None = None,
    shards: tuple[int, int] | None = None,
    *,
    remove: bool = False,
    progress: Callable[[Unit], Progress] = lambda unit: silent,
    say: Say | None = None,
) -> Iterator[Converted]:
    """Give captured shards the form `to`, one after the other; with `remove` the other form goes once it is verified.

    What has that form already is kept, what has neither is `missing`. Raises `BadInput` for an unknown source or range
    of shards, `ShardMissing` before stage prepare, `ShardCorrupt` for a damaged shard.
    """
    for unit in chosen_units(run, "capture", source, shards):
        yield _convert(run, unit, to, remove, progress(unit), say)


def _convert(run: Run, unit: Unit, to: Codec, remove: bool, progress: Progress, say: Say | None) -> Converted:
    try:
        asked = run.work(unit)
    except ShardMissing:  # not even encoded
        return Converted(unit, "missing")
    wanted, other = (_in_form(asked, codec) for codec in (to, "compact" if to == "plain" else "plain"))
    given = find(run.store, other)
    if given is None and find(run.store, wanted) is None:
        return Converted(unit, "missing")
    work = wanted if given is None else replace(wanted, compute=_conversion(run, given, to))
    outcome = perform(run.store, work, progress=progress, say=say)
    removed = remove and given is not None
    if removed and given is not None:
        verified_path(run.store, outcome.record)
        run.store.discard(given)
    return Converted(unit, "kept" if outcome.state == "kept" else "converted", outcome.record, given, removed)


def _in_form(work: Work, codec: str) -> Work:
    """Return the work as the recipe would have it with this codec; nothing else of its key changes."""
    assert work.settings is not None
    return replace(work, settings=work.settings.model_copy(update={"codec": codec}))


def _conversion(run: Run, given: Record, to: Codec) -> Callable[[Path, Progress], Counts]:
    """Return what writes a shard in the form `to` and checks it, before it is published."""

    def compute(path: Path, progress: Progress) -> Counts:
        source, total = verified_path(run.store, given), int(given.counts["chunks"])

        def written(chunks: int) -> None:
            progress(chunks, total)

        if to == "compact":
            to_compact(source, path, run.recipe.capture.most, written=written)
        else:
            to_plain(source, path, written=written)
        check_converted(source, path)
        return given.counts | {MADE: {"converted_from": given.key}}

    return compute
