"""What is read of one document: its chunks in the shards of every stage, each shard's checksum verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.storage.row_spans import read_span
from logitfuse.storage.shards import Rows, verified_path
from logitfuse.tasks.align_settings import conditions
from logitfuse.tasks.aligner import Aligner, Becomes
from logitfuse.tasks.fuse import reading
from logitfuse.tasks.fuse_documents import CAPTURED, PREPARED, TARGET, Documents, flat, whole_documents
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.vocabulary_map import read_map

if TYPE_CHECKING:
    from logitfuse.kernels.vocabulary_map import VocabularyMap
    from logitfuse.storage.records import Record
    from logitfuse.tasks.inspect.documents import Place
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

KEPT = ["first", "counts", "ids", "logprobs", "draws", "tail", "gold_logprob", "gold_rank"]
COLUMNS = {
    "prepare": ["text", "byte_start", "byte_end", "domain", "split"],
    "encode": ["last", "ids", "ends"],
    "capture": KEPT,
    "align": ["source_position", "counts", "ids", "logprobs", "mass"],
    "fuse": ["inputs", "labels", "counts", "ids", "logprobs", "mass", "winner", "weights", "scores"],
}


@dataclass(frozen=True, eq=False)
class Taught:
    """The fused targets of T positions, and of S sources which counts most (-1 none), how much each does, and why."""

    targets: Distributions
    winner_T: NDArray[np.int32]
    weights_ST: NDArray[np.float32]  # the mean over the document, or the packed block
    scores_ST: NDArray[np.float32]  # of the document, or the packed block; NaN where it has none


class ShardFiles:
    """The shards of one number, of all stages up to fuse; each is checked once, when it is first asked for."""

    def __init__(self, run: Run, shard: int) -> None:
        self._run, self.shard = run, shard
        self._paths: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """Return the verified path of `prepare`, `encode` (the target's), `fuse`, or STAGE/LABEL of a source."""
        if name not in self._paths:
            self._paths[name] = verified_path(self._run.store, self._record(name))
        return self._paths[name]

    def _record(self, name: str) -> Record:
        if name == "prepare":
            return self._run.prepared(self.shard)
        stage, _, label = name.partition("/")
        of: str | None = label or None
        if stage == "encode":
            of = (self._run.teachers[label] if label else self._run.target).tokenizer_label
        return self._run.record(Unit(stage, of, self.shard))

    def rows(self, names: list[str], start: int, stop: int) -> dict[str, pa.RecordBatch]:
        """Return rows of some shards with all columns that are looked at."""
        files = {name: (self.path(name), COLUMNS[name.partition("/")[0]]) for name in names}
        return read_span(files, start, stop)

    def documents(self, place: Place) -> Documents:
        """Return one document as stage fuse reads it."""
        how = reading(self._run, Unit("fuse", None, self.shard))
        columns: dict[str, list[str]] = {"prepare": PREPARED, "encode": TARGET}
        for label in how.labels:
            columns |= {f"encode/{label}": ["ends"], f"capture/{label}": CAPTURED, f"align/{label}": how.aligned}
        files = {name: (self.path(name), of) for name, of in columns.items()}
        return whole_documents([read_span(files, place.first, place.first + place.chunks)], how)


class Maps:
    """The vocabulary maps of a run, and who aligns by them; each is read once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._maps: dict[str, VocabularyMap] = {}
        self._aligners: dict[str, Aligner] = {}

    def of(self, source: Source) -> VocabularyMap:
        """Return the map from a source's vocabulary to the target's."""
        label = source.tokenizer_label
        if label not in self._maps:
            self._maps[label] = read_map(verified_path(self._run.store, self._run.record(Unit("map", label))))
        return self._maps[label]

    def becomes(self, source: Source, batches: Mapping[str, pa.RecordBatch]) -> Becomes | None:
        """Return what the tokens that a source keeps become; None where align keeps logits, which do not add up."""
        recipe, target = self._run.recipe, self._run.target
        if recipe.align.values == "logits":
            return None
        if source.label not in self._aligners:
            self._aligners[source.label] = Aligner(source, target, self.of(source), recipe.align, recipe.capture)
        named = {
            "target": batches["encode"],
            "source": batches[f"encode/{source.label}"],
            "capture": batches[f"capture/{source.label}"],
        }
        same = source.vocabulary.fingerprint == target.vocabulary.fingerprint
        if conditions(recipe.align, recipe.include_target) and not same:
            named["own"] = batches[f"capture/{target.label}"]
        return self._aligners[source.label].becomes(named)


def taught_rows(batch: pa.RecordBatch) -> Taught:
    """Return the fused targets that some rows of a fused shard hold."""
    counts, ids, logprobs, mass, winner = (
        flat(batch, name)[1] for name in ("counts", "ids", "logprobs", "mass", "winner")
    )
    entries = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    targets = Distributions(entries, ids, logprobs, mass.astype(np.float64))
    rows, lengths_C = Rows(batch), np.diff(flat(batch, "counts")[0])
    weights_ST, scores_ST = (
        np.repeat(np.stack([rows.values(name, row) for row in range(len(rows))], axis=1), lengths_C, axis=1)
        for name in ("weights", "scores")
    )
    return Taught(targets, winner, weights_ST, scores_ST)
