"""Stage align: each source's distributions at the target's positions, on the target's vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from logitfuse.kernels.alignment import ALIGNMENTS
from logitfuse.kernels.positions import consumed_bytes, positions
from logitfuse.kernels.projection import project
from logitfuse.kernels.sparse import Sparse, to_half_precision
from logitfuse.storage.schemas import ALIGN
from logitfuse.storage.settings import Settings
from logitfuse.storage.shards import rows_together, verified_path, writing_rows
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.strategy import strategy_field
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.vocabulary_map import read_map

if TYPE_CHECKING:
    from logitfuse.kernels.vocabulary_map import VocabularyMap
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

READ = {
    "target": ["last", "ids", "ends"],
    "source": ["ids", "ends"],
    "capture": ["first", "ids", "logprobs", "tail"],
}


class AlignSettings(Settings):
    """How positions of a source and of the target are matched."""

    model_config = {"title": "Align"}

    strategy: str = strategy_field(
        ALIGNMENTS, "offsets", "Alignment", "offsets: the position that has read exactly the same bytes."
    )

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        ALIGNMENTS.get(name)
        return name


def units(run: Run) -> list[Unit]:
    """One unit per source and shard."""
    return [Unit("align", label, shard) for label in run.teachers for shard in run.shard_numbers]


def work(run: Run, unit: Unit) -> Work:
    """Describe the alignment of one source's shard with the target."""
    source, target = run.teachers[unit.needed_source], run.target
    shards = {
        "target": run.record(Unit("encode", target.tokenizer_label, unit.shard)),
        "source": run.record(Unit("encode", source.tokenizer_label, unit.shard)),
        "capture": run.record(Unit("capture", source.label, unit.shard)),
    }
    mapping = run.record(Unit("map", source.tokenizer_label))

    def compute(path: Path, progress: Progress) -> Counts:
        files = {name: (verified_path(run.store, record), READ[name]) for name, record in shards.items()}
        vocabulary_map = read_map(verified_path(run.store, mapping))
        aligner = Aligner(source, target, vocabulary_map, run.recipe.capture.k, run.recipe.align.strategy)
        return align_shard(aligner, files, shards["target"].counts["chunks"], path, progress)

    return Work(
        stage="align",
        place=f"align/{unit.source}",
        name=unit.part,
        shard=unit.shard,
        compute=compute,
        settings=run.recipe.align,
        inputs=(*shards.values(), mapping),
        fingerprints={
            "target": [target.start_id, target.end_id],
            "prefix": [source.vocabulary.dummy_prefix, target.vocabulary.dummy_prefix],
        },
    )


class Aligner:
    """Aligns chunks of one source with the target."""

    def __init__(self, source: Source, target: Source, vocabulary_map: VocabularyMap, k: int, strategy: str) -> None:
        self._target = target
        self._map = vocabulary_map
        self._k = k
        self._match = ALIGNMENTS.get(strategy)
        self._prefixes = (source.vocabulary.dummy_prefix, target.vocabulary.dummy_prefix)

    def serving(
        self, source_bytes: NDArray[np.int64], first: int, target_bytes: NDArray[np.int64], target_first: int
    ) -> NDArray[np.int64]:
        """Return the index of the captured row that serves each target position, -1 for none."""
        serving = self._match(source_bytes, target_bytes)
        if self._prefixes[0] != self._prefixes[1] and len(serving):
            # Before any token, a model with a dummy prefix predicts pieces with a space that is not in the text.
            source_begins = (serving == 0) & (first == 0) if self._prefixes[0] else np.zeros(len(serving), bool)
            target_begins = (np.arange(len(serving)) == 0) & (target_first == 0) & self._prefixes[1]
            serving = np.where(source_begins | target_begins, -1, serving)
        return serving

    def align(self, target: dict[str, Any], source: dict[str, Any], capture: dict[str, Any]) -> dict[str, Any]:
        """Return the align columns of one chunk and its `rows`, the fused-ready distributions."""
        first, count = positions(
            len(target["ids"]),
            start=self._target.start_id is not None,
            end=self._target.end_id is not None and target["last"],
        )
        captured = len(capture["tail"])
        source_bytes = consumed_bytes(source["ends"], capture["first"], captured)
        target_bytes = consumed_bytes(target["ends"], first, count)
        serving = self.serving(source_bytes, capture["first"], target_bytes, first)
        rows = self._carry(capture, captured, serving)
        source_position = np.where(rows.counts > 0, serving + capture["first"], -1)
        return {"source_position": source_position, "rows": rows}

    def _carry(self, capture: dict[str, Any], captured: int, serving: NDArray[np.int64]) -> Sparse:
        probs_PK = np.exp(capture["logprobs"].astype(np.float64)).reshape(captured, self._k)
        whole_P = probs_PK.sum(axis=1) + capture["tail"]  # rounding to fp16 moved it off 1 a little
        probs_PK = probs_PK / np.where(whole_P > 0, whole_P, 1.0)[:, None]
        ids_PK = capture["ids"].reshape(captured, self._k)
        m = self._map
        return project(ids_PK, probs_PK, serving, m.offsets, m.target_ids, m.weights)


def align_shard(
    aligner: Aligner, files: dict[str, tuple[Path, list[str]]], chunks: int, path: Path, progress: Progress
) -> Counts:
    """Align one shard; return how many positions were served and how much mass was kept."""
    counts: Counts = {"chunks": 0, "positions": 0, "served": 0, "mass": 0.0}
    with writing_rows(path, ALIGN) as add:
        for views, row in rows_together(files):
            found = aligner.align(*(_chunk(views[name], READ[name], row) for name in ("target", "source", "capture")))
            rows: Sparse = found["rows"]
            add(
                {
                    **views["target"].identity(row),
                    "source_position": found["source_position"],
                    "counts": rows.counts,
                    "ids": rows.ids,
                    "logprobs": to_half_precision(np.log(rows.probs)),
                    "mass": rows.mass,
                }
            )
            counts["chunks"] += 1
            counts["positions"] += len(rows)
            counts["served"] += int((rows.counts > 0).sum())
            counts["mass"] += float(rows.mass.sum())
            progress(counts["chunks"], chunks)
    return counts


def _chunk(view: Any, columns: list[str], row: int) -> dict[str, Any]:
    plain = {"last", "first"}
    return {name: view.value(name, row) if name in plain else view.values(name, row) for name in columns}
