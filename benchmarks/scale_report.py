"""What came of `scale.py`: a table per stage, and the JSON."""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from measure import at_most, show, write
from rich.console import Console
from rich.table import Table
from scale_stages import COMPARED, STAGES, TRACE, Facts
from stub_capture import StubRun

from logitfuse.tasks.unit import Unit

GROWTH = 1.05
TENTHS = 10  # a run of fewer shards is too short to tell
COLUMNS = {"microseconds_per_token": "µs per token", "seconds": "s", "peak_mb": "peak MB", "peak_mb_most": "most",
           "peak_growth": "last/first", "bytes_per_token": "B per token"}  # fmt: skip


def report(run: StubRun, path: Path | None) -> None:
    """Print a table per stage and write the JSON."""
    lines = [json.loads(line) for line in (run.recipe.folder / TRACE).read_text().splitlines()]
    by_unit = {line["unit"]: line for line in lines if "unit" in line}
    sizes = [run.record(Unit("encode", run.target.tokenizer_label, s)).counts["tokens"] for s in run.shard_numbers]
    stages: dict[str, Facts] = {}
    metrics: dict[str, float] = {}
    for stage in STAGES:
        for label, units in per_source(run, stage).items():
            found = [by_unit[str(unit)] for unit in units if str(unit) in by_unit]
            stages[label] = summary(run, units, found, sizes)
            if stage in COMPARED:
                if "peak_growth" in stages[label]:
                    metrics[f"peak_growth_{label}"] = stages[label]["peak_growth"]
                metrics |= {f"{name}_{label}": value for name, value in in_turns(lines, units, sizes).items()}
    show_stages(stages)
    goals = {name: at_most(GROWTH) for name in metrics}
    metrics["bytes_per_token"] = sum(facts.get("bytes_per_token", 0.0) for facts in stages.values())
    show(f"{sum(sizes):,} target tokens in {len(sizes)} shards", metrics, goals)
    documents = sum(record.counts["documents"] for record in run.shards)
    inputs = {"tokens": sum(sizes), "shards": len(sizes), "documents": documents, "captures": "stubs: no model"}
    write(path, metrics, goals, inputs | {"largest_shard_tokens": max(sizes), "stages": stages})


def per_source(run: StubRun, stage: str) -> dict[str, list[Unit]]:
    """Return the units of a stage by what they are called in the table: stage and source, in shard order."""
    if stage == "prepare":
        return {stage: [Unit(stage, None, shard) for shard in run.shard_numbers]}
    names = {model.tokenizer_label: label for label, model in run.teachers.items()}
    found: dict[str, list[Unit]] = defaultdict(list)
    for unit in run.units(stage):
        source = names.get(unit.source or "", unit.source)
        found[f"{stage}_{source}" if source else stage].append(unit)
    return dict(found)


def summary(run: StubRun, units: list[Unit], found: list[Facts], sizes: list[int]) -> Facts:
    """Return what a stage took of one source: medians over its shards, and tenth by tenth; the map has no shards."""
    facts: Facts = {"seconds": sum(line["seconds"] for line in found)}
    if units[0].stage == "map" or not found:
        return facts | {"peak_mb": max((line["peak"] for line in found), default=float("nan"))}
    stored = sum(file.bytes for unit in units for file in record_of(run, unit).files)
    by_shard = {line["unit"]: line for line in found}
    known = [(by_shard[str(unit)], size) for unit, size in zip(units, sizes, strict=True) if str(unit) in by_shard]
    processor = [1e6 * line["processor"] / size for line, size in known]
    peaks = [line["peak"] for line, _ in known]
    return facts | {
        "microseconds_per_token": statistics.median(processor),
        "by_tenth_microseconds": by_tenth(processor),
        "peak_mb": statistics.median(peaks),
        "peak_mb_most": max(peaks),
        "by_tenth_peak_mb": by_tenth(peaks),
        "bytes_per_token": stored / sum(sizes),
        **({"peak_growth": by_tenth(peaks)[-1] / by_tenth(peaks)[0]} if len(peaks) >= TENTHS else {}),
    }


def record_of(run: StubRun, unit: Unit) -> Any:
    """Return the record of a unit of any stage."""
    return run.prepared(unit.needed_shard) if unit.stage == "prepare" else run.record(unit)


def in_turns(lines: list[Facts], units: list[Unit], sizes: list[int]) -> dict[str, float]:
    """Return (slowdown, ageing) from the shards that were made again, by their least times; nothing where none was."""
    names = {str(unit): number for number, unit in enumerate(units)}
    taken: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if (number := names.get(line.get("again", ""))) is not None:
            for kind in ("first" if number < len(units) // 2 else "last", line["by"]):
                taken[kind].append(line["processor"] / sizes[number])
    if not taken:
        return {}
    least = {kind: min(values) for kind, values in taken.items()}
    return {"slowdown": least["last"] / least["first"], "ageing": least["old"] / least["fresh"]}


def by_tenth(values: list[float]) -> list[float]:
    """Return the median of each tenth, so that a reader tells a trend from noise."""
    return [round(float(np.median(part)), 4) for part in np.array_split(np.array(values), min(TENTHS, len(values)))]


def show_stages(stages: dict[str, Facts]) -> None:
    """Print what each stage took, a row per source."""
    table = Table("stage", *COLUMNS.values())
    for label, facts in stages.items():
        table.add_row(label, *(f"{facts[name]:.4g}" if name in facts else "" for name in COLUMNS))
    Console().print(table)
