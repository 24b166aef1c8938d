"""What a run trains: the fused model, its control, and with pairwise fusion a target for each source (FuseChat)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.recipe import Recipe
    from logitfuse.tasks.run import Run

FUSED, CONTROL = "fused", "control"
PAIR = "fused-"  # the arm of a source alone is called this and its name


def arms(recipe: Recipe) -> list[str]:
    """Return the models that are trained: the fused one and, if asked for, its control (λ = 1) and one per source."""
    return [FUSED, *([CONTROL] if recipe.train.control else []), *pair_arms(recipe)]


def pair_sources(recipe: Recipe) -> list[str]:
    """Return the sources that are also fused with the target alone: none without `train.pairwise`."""
    return [source.label for source in recipe.sources] if recipe.train.pairwise else []


def pair_arms(recipe: Recipe) -> list[str]:
    """Return the arms that learn from one source each."""
    return [PAIR + label for label in pair_sources(recipe)]


def source_of(recipe: Recipe, arm: str) -> str | None:
    """Return the one source of a pairwise arm; None for an arm that learns from all."""
    return next((label for label in pair_sources(recipe) if PAIR + label == arm), None)


def teachers_of(run: Run, source: str | None) -> dict[str, Source]:
    """Return the models that are fused: all of the run, or one source and, if it is one too, the target."""
    kept = (source, run.target.label)
    return {label: model for label, model in run.teachers.items() if source is None or label in kept}


def fused_shards(run: Run, arm: str) -> tuple[Record, ...]:
    """Return the records of the fused shards that an arm learns from; raises `ShardMissing`."""
    source = source_of(run.recipe, arm)
    return tuple(run.record(Unit("fuse", source, shard)) for shard in run.shard_numbers)
