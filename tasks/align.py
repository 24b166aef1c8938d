"""Stage align: each source's distributions at the target's positions, on the target's vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.storage.schemas import ALIGN
from logitfuse.storage.shards import ShardWriter, read_together, verified_path
from logitfuse.tasks.align_settings import AlignSettings, conditions, key_settings
from logitfuse.tasks.aligner import Aligner, columns_read, leaves_out_first_space
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.vocabulary_map import read_map

if TYPE_CHECKING:
    from logitfuse.tasks.capture_settings import CaptureSettings
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run


def units(run: Run) -> list[Unit]:
    """One unit per source and shard."""
    return [Unit("align", label, shard) for label in run.teachers for shard in run.shard_numbers]


def work(run: Run, unit: Unit) -> Work:
    """Describe the alignment of one source's shard with the target."""
    source, target, settings = run.teachers[unit.needed_source], run.target, run.recipe.align
    same = source.vocabulary.fingerprint == target.vocabulary.fingerprint
    shards = {
        "target": run.record(Unit("encode", target.tokenizer_label, unit.shard)),
        "source": run.record(Unit("encode", source.tokenizer_label, unit.shard)),
        "capture": run.record(Unit("capture", source.label, unit.shard)),
    }
    if conditions(settings, run.recipe.include_target) and not same:
        shards["own"] = run.record(Unit("capture", target.label, unit.shard))
    mapping = run.record(Unit("map", source.tokenizer_label))

    def compute(path: Path, progress: Progress) -> Counts:
        paths = {name: verified_path(run.store, record) for name, record in shards.items()}
        vocabulary_map = read_map(verified_path(run.store, mapping))
        aligner = Aligner(source, target, vocabulary_map, settings, run.recipe.capture)
        return align_shard(aligner, paths, shards["target"].counts["chunks"], path, progress)

    return Work(
        stage="align",
        place=f"align/{unit.source}",
        name=unit.part,
        shard=unit.shard,
        compute=compute,
        settings=key_settings(settings, run.recipe.include_target),
        inputs=(*shards.values(), mapping),
        fingerprints={
            "target": [target.start_id, target.end_id],
            "prefix": [source.vocabulary.dummy_prefix, target.vocabulary.dummy_prefix],
            **_further(source, target, settings, run.recipe.capture),
        },
    )


def _further(source: Source, target: Source, settings: AlignSettings, capture: CaptureSettings) -> dict[str, Any]:
    """Return what else the bytes depend on, where they do: positions past the end, and the tokenizers themselves."""
    found: dict[str, Any] = {"past_end": True} if capture.past_end else {}
    if source.vocabulary.fingerprint == target.vocabulary.fingerprint:
        found["same_tokenizer"] = True
    elif settings.strategy != "offsets":
        found["tokenizers"] = [source.vocabulary.fingerprint, target.vocabulary.fingerprint]
        found["first_space"] = leaves_out_first_space(source.tokenizer)
        found["max_length"] = capture.max_length
    return found


def align_shard(aligner: Aligner, paths: dict[str, Path], chunks: int, path: Path, progress: Progress) -> Counts:
    """Align one shard; return how many positions were served and how much mass was kept.

    `not_served`: no position of the source matches. `unmapped`: one does, but the map knows none of its tokens.
    """
    counts: Counts = {"chunks": 0, "positions": 0, "served": 0, "not_served": 0, "unmapped": 0, "mass": 0.0}
    files = {name: (file, columns_read(name, aligner.settings.values)) for name, file in paths.items()}
    writer = ShardWriter(path, ALIGN, {"stage": ALIGN.stage, "version": str(ALIGN.version)})
    try:
        for batches in read_together(files):
            columns, found = aligner.align(batches)
            writer.write(columns)
            for name, value in found.items():
                counts[name] += value
            progress(counts["chunks"], chunks)
    finally:
        writer.close()
    return counts
