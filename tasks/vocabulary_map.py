"""Stage map: for each source vocabulary, which target tokens its tokens become (FuseLLM, section 3.2: MinED)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationInfo, field_validator, model_validator

from logitfuse.kernels.vocabulary_map import (
    VOCABULARY_MAPS,
    How,
    TwiceCut,
    VocabularyMap,
    identity_map,
    tokens_to_fit,
)
from logitfuse.storage.schemas import MAP
from logitfuse.storage.settings import Settings
from logitfuse.storage.shards import Rows, ShardWriter, read_batches, verified_path
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.fitting_text import shards_to_fit, training_chunks
from logitfuse.tasks.models.vocabulary import map_context, vocabulary_view
from logitfuse.tasks.strategy import checked_options, normal_options, options_field, strategy_field
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

ROWS_AT_ONCE = 16_384


class MapSettings(Settings):
    """How source tokens find their target tokens."""

    model_config = {"title": "Vocabulary map"}

    strategy: str = strategy_field(
        VOCABULARY_MAPS,
        "learned",
        "Strategy",
        "exact: same bytes only. mined: also the least edit distance (the paper). first_piece: what the target's own "
        "tokenizer would begin with. learned: what the target writes at the same places of the training text. "
        "published: the paper's code, which compares the pieces as they are spelled.",
    )
    options: dict[str, Any] = options_field(VOCABULARY_MAPS, "Options of the strategy")

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        VOCABULARY_MAPS.get(name)
        return name

    @field_validator("options")
    @classmethod
    def _fit(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return normal_options(VOCABULARY_MAPS, info.data.get("strategy"), options)

    @model_validator(mode="after")
    def _options_fit(self) -> MapSettings:
        checked_options(VOCABULARY_MAPS, self.strategy, self.options)
        return self


def units(run: Run) -> list[Unit]:
    """One unit per source tokenizer."""
    labels = dict.fromkeys(source.tokenizer_label for source in run.teachers.values())
    return [Unit("map", label) for label in labels]


def work(run: Run, unit: Unit) -> Work:
    """Describe the map from one source tokenizer to the target's."""
    source, target = run.tokenizers[unit.needed_source], run.target
    settings = run.recipe.map
    width = max(s.head_width for s in run.teachers.values() if s.tokenizer_label == unit.source)
    options = checked_options(VOCABULARY_MAPS, settings.strategy, settings.options)
    wanted = None if _is_same(source, target) else tokens_to_fit(settings.strategy, options)
    shards = shards_to_fit(run, unit.needed_source, wanted)

    def compute(path: Path, progress: Progress) -> Counts:
        files = [{name: verified_path(run.store, record) for name, record in shard.items()} for shard in shards]
        pairs = training_chunks(files) if files else None
        workers = run.recipe.execution.workers
        found = build_map(source, target, width, settings, workers=workers, pairs=pairs)
        write_map(found, path)
        return {"source_tokens": found.source_size, **found.counts()}

    return Work(
        stage="map",
        place=f"map/{unit.source}",
        name="map",
        compute=compute,
        settings=settings,
        inputs=tuple(record for shard in shards for record in shard.values()),
        fingerprints={
            "source": source.vocabulary.fingerprint,
            "target": target.vocabulary.fingerprint,
            "widths": [width, target.head_width],
        },
    )


def build_map(
    source: Source,
    target: Source,
    width: int,
    settings: MapSettings,
    *,
    workers: int = 1,
    pairs: Iterable[TwiceCut] | None = None,
) -> VocabularyMap:
    """Return the map; models with the same tokenizer need no strategy.

    `width`: of the widest head that writes the source's tokens. `workers`: threads, which change no result. `pairs`:
    training text, for strategies that are fitted on it.
    """
    if _is_same(source, target):
        return identity_map(source.vocabulary.size, width)
    strategy = VOCABULARY_MAPS.get(settings.strategy)
    options = checked_options(VOCABULARY_MAPS, settings.strategy, settings.options)
    views = (vocabulary_view(source.vocabulary, width), vocabulary_view(target.vocabulary, target.head_width))
    return strategy(*views, map_context(target.tokenizer, target.vocabulary, workers, pairs), **options)


def _is_same(source: Source, target: Source) -> bool:
    return source.vocabulary.fingerprint == target.vocabulary.fingerprint


def write_map(found: VocabularyMap, path: Path) -> None:
    """Write a map as a shard, a row per source id."""
    writer = ShardWriter(path, MAP, {"stage": MAP.stage, "version": str(MAP.version)})
    try:
        for start in range(0, found.source_size, ROWS_AT_ONCE):
            rows = range(start, min(start + ROWS_AT_ONCE, found.source_size))
            spans = [slice(found.offsets[s], found.offsets[s + 1]) for s in rows]
            writer.write(
                {
                    "source_id": list(rows),
                    "target_ids": [found.target_ids[span] for span in spans],
                    "weights": [found.weights[span] for span in spans],
                    "distance": found.distance[rows.start : rows.stop],
                    "how": [How(int(how)).name.lower() for how in found.how[rows.start : rows.stop]],
                    "times": found.times[rows.start : rows.stop],
                }
            )
    finally:
        writer.close()


def read_map(path: Path) -> VocabularyMap:
    """Read a map back."""
    names = {how.name.lower(): int(how) for how in How}
    counts, ids, weights, distance, how, times = [], [], [], [], [], []
    for batch in read_batches(path, None, ROWS_AT_ONCE):
        rows = Rows(batch)
        for row in range(len(rows)):
            ids.append(rows.values("target_ids", row))
            weights.append(rows.values("weights", row))
            counts.append(len(ids[-1]))
        distance.append(batch.column("distance").to_numpy())
        how += [names[name] for name in batch.column("how").to_pylist()]
        times.append(batch.column("times").to_numpy())
    return VocabularyMap(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(ids).astype(np.int32),
        np.concatenate(weights).astype(np.float32),
        np.concatenate(distance).astype(np.int32),
        np.array(how, np.int8),
        np.concatenate(times).astype(np.float32),
    )
