"""The stages of a run as rows: how many units each has, how many stand, how much it reads and how much it writes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from logitfuse.storage.errors import LogitfuseError, ShardCorrupt, ShardMissing
from logitfuse.tasks.adapt import adapt_of
from logitfuse.tasks.arms import pair_sources
from logitfuse.tasks.evaluate import contestants
from logitfuse.tasks.execute import stage_status
from logitfuse.tasks.plan.amounts import Amounts
from logitfuse.tasks.plan.estimates import Estimate, exact
from logitfuse.tasks.plan.row import Row
from logitfuse.tasks.plan.row_bytes import row_bytes
from logitfuse.tasks.plan.training_amounts import trained_tokens, training_steps
from logitfuse.tasks.stages import ORDER, STAGES
from logitfuse.tasks.suites import asked_models, tasks_of

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

PER_SHARD = frozenset({"prepare", "encode", "capture", "align", "fuse"})


def stage_rows(run: Run, amounts: Amounts, stages: list[str] | None = None) -> list[Row]:
    """Return the rows of all stages, or of some, that have anything to do in this run."""
    found = []
    for stage in stages or ORDER:
        standing = _standing(run, stage)
        for source in _sources(run, stage):
            units = _units(run, stage, source, amounts)
            done, size = standing.get(source, (0, 0))
            measure, amount = _amount(run, stage, source, amounts)
            row = Row(stage, source, run.called(stage, source), units, done, measure, amount, exact(0), size)
            row = replace(row, steps=_steps(run, stage, source, amounts))
            found.append(replace(row, bytes=_with_standing(row, row_bytes(run, row, amounts))))
    return found


def _with_standing(row: Row, whole: Estimate) -> Estimate:
    """Put the bytes of what stands in the place of their estimate."""
    return exact(row.bytes_done) if row.done >= row.units else whole.times(row.left).plus(row.bytes_done)


def shards_of(run: Run, amounts: Amounts) -> int:
    """Return how many shards the corpus makes, estimated before stage prepare."""
    try:
        return len(run.shards)
    except (ShardMissing, ShardCorrupt):
        return max(1, math.ceil(amounts.of("documents").value / run.recipe.corpus.documents_per_shard))


def _standing(run: Run, stage: str) -> dict[str | None, tuple[int, int]]:
    """Return by source how many units are done and the bytes of their files."""
    try:
        statuses = stage_status(run, stage)
    except LogitfuseError:  # told among the refusals
        return {}
    done, size = Counter[str | None](), Counter[str | None]()
    for status in statuses:
        if status.state == "done" and status.record:
            done[status.unit.source] += 1
            size[status.unit.source] += sum(file.bytes for file in status.record.files)
    return {source: (done[source], size[source]) for source in done}


def _sources(run: Run, stage: str) -> list[str | None]:
    recipe, teachers = run.recipe, list(run.teachers)
    if stage == "encode":
        return list(run.tokenizers)
    if stage in ("check", "capture", "align"):
        return [*teachers]
    if stage == "map":
        return list(dict.fromkeys(source.tokenizer_label for source in run.teachers.values()))
    if stage == "fuse":
        return [None, *pair_sources(recipe)]
    if stage == "evaluate":
        return [contestant.label for contestant in contestants(run)]
    if stage == "suites":
        return [one.label for one in asked_models(run)] if recipe.suites.wanted else []
    if stage in ("adapt", "train", "merge"):
        return [unit.source for unit in STAGES[stage].units(run)]
    return [None]


def _units(run: Run, stage: str, source: str | None, amounts: Amounts) -> int:
    if stage == "suites":
        return len(tasks_of(run.recipe.suites))
    return shards_of(run, amounts) if stage in PER_SHARD else 1


def _amount(run: Run, stage: str, source: str | None, amounts: Amounts) -> tuple[str, Estimate]:
    """Return what a row reads, and how much of it."""
    if stage == "prepare":
        return "bytes", amounts.of("bytes")
    if stage == "encode":
        return "tokens", amounts.of(f"tokens/{source}")
    if stage == "capture":
        return "tokens", amounts.of(f"positions/{source}")
    if stage in ("align", "fuse"):
        return "tokens", amounts.of("target/positions")
    if stage == "headroom":
        return "tokens", amounts.of("validation/positions")
    if stage == "adapt":
        return "tokens", amounts.of(f"adapt/{source}").times(adapt_of(run.given[source or ""]).epochs)
    if stage == "train":
        return "tokens", trained_tokens(run, amounts)
    if stage == "evaluate":
        label = source if source in run.given else run.target.label
        return "tokens", amounts.of(f"evaluate/{label}")
    return "", exact(0)


def _steps(run: Run, stage: str, source: str | None, amounts: Amounts) -> int:
    """Return the optimiser steps of a model's training, 0 of other stages."""
    if stage == "adapt":
        found = (amounts.of(f"adapt/{source}").value, amounts.of(f"adapt-sequences/{source}").value)
        return training_steps(*found, adapt_of(run.given[source or ""]))
    if stage != "train":
        return 0
    return training_steps(amounts.of("train/positions").value, amounts.of("train/sequences").value, run.recipe.train)
