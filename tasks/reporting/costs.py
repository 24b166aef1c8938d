"""What a run cost: time and disk of every stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run


def stage_costs(run: Run, stages: list[str]) -> list[dict[str, Any]]:
    """Return a row per stage and source: its units, their seconds together, and the bytes that they left.

    Units that ran at the same time count each with its own seconds, so this is work, not the clock on the wall.
    """
    rows = [_cost("prepare", None, run.shards)]
    for stage in stages:
        by_source: dict[str | None, list[Record]] = {}
        for unit in run.units(stage):
            by_source.setdefault(unit.source, []).append(run.record(unit))
        names = {source: run.called(stage, source) for source in by_source}
        rows += [_cost(stage, names[source], records) for source, records in by_source.items()]
    return rows


def _cost(stage: str, source: str | None, records: list[Record]) -> dict[str, Any]:
    return {
        "stage": stage,
        "source": source,
        "units": len(records),
        "seconds": round(sum(record.made.get("seconds", 0.0) for record in records), 3),
        "bytes": sum(file.bytes for record in records for file in record.files),
    }
