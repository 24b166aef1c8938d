"""Everything a report says, as plain JSON values; the page shows this and nothing else."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from logitfuse.tasks.headroom import read_headroom
from logitfuse.tasks.quarantine import quarantine_line
from logitfuse.tasks.reporting.cautions import cautions
from logitfuse.tasks.reporting.comparison import gain_rows, result_rows
from logitfuse.tasks.reporting.contributions import alignment_facts, fusion_facts
from logitfuse.tasks.reporting.costs import stage_costs
from logitfuse.tasks.reporting.curves import training_facts
from logitfuse.tasks.reporting.suites import suite_facts
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

REPORT_FORMAT = 1


def gather(run: Run, stages: list[str]) -> dict[str, Any]:
    """Return the facts of a finished run; `stages` are those after prepare whose cost is counted.

    Raises `ShardMissing` if a stage is not done. What is not a finite number is None.
    """
    costs = stage_costs(run, stages)
    facts: dict[str, Any] = {
        "format": REPORT_FORMAT,
        "run": run.recipe.name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": run.target.label,
        "sources": [label for label in run.teachers if label != run.target.label],
        "target_is_source": run.target.label in run.teachers,
        "corpus": corpus_facts(run),
        "results": result_rows(run),
        "gains": gain_rows(run),
        "suites": suite_facts(run),
        "fusion": fusion_facts(run),
        "alignment": alignment_facts(run),
        "headroom": read_headroom(run),
        "training": training_facts(run),
        "stages": costs,
        "seconds": round(sum(row["seconds"] for row in costs), 3),
        "bytes": sum(row["bytes"] for row in costs),
        "recipe": recipe_facts(run),
        "fingerprints": fingerprints(run),
    }
    return finite({**facts, "warnings": cautions(facts)})


def corpus_facts(run: Run) -> dict[str, Any]:
    """Return what text was read and how many chunks each split has."""
    splits: dict[str, int] = {}
    for record in run.shards:
        for split, count in record.counts["splits"].items():
            splits[split] = splits.get(split, 0) + count
    facts = {"source": run.recipe.corpus.source, "evaluated_on": run.recipe.evaluate.split, "splits": splits}
    left_out = quarantine_line(run)
    return facts | ({"quarantined": left_out.removeprefix("WARNING: ")} if left_out else {})


def recipe_facts(run: Run) -> dict[str, Any]:
    """Return what the recipe sets that is not a default, without where and with what it was run."""
    return run.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"execution"})


def fingerprints(run: Run) -> dict[str, Any]:
    """Return what identifies the models, the text, the result and the libraries."""
    models = {run.target.label: run.target, **run.teachers}
    adapted = {unit.needed_source: run.record(unit) for unit in run.units("adapt")}
    trained = {unit.needed_source: run.record(unit) for stage in ("train", "merge") for unit in run.units(stage)}
    return {
        "models": {
            label: {
                "model": source.home.settings.model,
                "revision": source.home.settings.revision,
                "weights": source.home.fingerprint,
                "tokenizer": source.vocabulary.fingerprint,
            }
            for label, source in models.items()
        },
        "corpus": [record.checksum for record in run.shards],
        "fused": [run.record(Unit("fuse", None, shard)).checksum for shard in run.shard_numbers],
        **({"adapted": {label: record.checksum for label, record in adapted.items()}} if adapted else {}),
        "trained": {arm: record.checksum for arm, record in trained.items()},
        "versions": {
            "python": trained["fused"].made.get("python"),
            **trained["fused"].made.get("versions", {}),
        },
    }


def finite(value: Any) -> Any:
    """Return the same with None for every number that JSON cannot say."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
