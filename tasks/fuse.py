"""Stage fuse: the sources' aligned distributions become one, and the target's training rows."""

# legend: S sources, T positions, D documents, R rows

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.advantage import advantage, held_back
from logitfuse.kernels.fusion.distributions import Distributions, half_precision
from logitfuse.kernels.fusion.evidence import Evidence
from logitfuse.kernels.fusion.shares import mean_shares, winners
from logitfuse.storage.shards import verified_path
from logitfuse.tasks.arms import pair_sources, teachers_of
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.fuse_blocks import Block, Packer
from logitfuse.tasks.fuse_documents import CAPTURED, PREPARED, TARGET, Documents, Reading
from logitfuse.tasks.fuse_rows import FusedRows, writing_fused
from logitfuse.tasks.fuse_scores import document_scores, position_scores
from logitfuse.tasks.fuse_settings import FuseSettings, check_inputs, check_weights, key_settings, weights_among
from logitfuse.tasks.fuse_shuffled import fused_documents
from logitfuse.tasks.strategy import checked_options
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

__all__ = ["FuseSettings", "fuse_shard", "units", "work"]
ROWS_AT_ONCE = 32  # changes memory and speed (what fits a cache), never a byte
ROUNDED_AT_ONCE = 1 << 16  # likewise


def units(run: Run) -> list[Unit]:
    """One unit per shard, and one for each source that is also fused with the target alone."""
    sources = [None, *pair_sources(run.recipe)]
    return [Unit("fuse", source, shard) for source in sources for shard in run.shard_numbers]


def reading(run: Run, unit: Unit) -> Reading:
    """Return how the shards are read that a unit fuses: those of all sources, or of the one it is for."""
    recipe = run.recipe
    return Reading(
        run.target, tuple(teachers_of(run, unit.source)), recipe.capture.past_end, recipe.align.values == "logits",
        recipe.fuse.temperature, recipe.fuse.shuffled,
    )  # fmt: skip


def work(run: Run, unit: Unit) -> Work:
    """Describe the fusion of one shard; raises `BadInput` if the settings do not fit those of the stages before."""
    target, how = run.target, reading(run, unit)
    settings = weights_among(run.recipe.fuse, how.labels) if unit.source else run.recipe.fuse
    check_weights(settings, how.labels)
    check_inputs(settings, past_end=how.past_end, logits=how.logits, start=target.start_id, end=target.end_id)
    prepared = run.prepared(unit.needed_shard)
    shards: dict[str, tuple[Record, list[str]]] = {
        "prepare": (prepared, PREPARED),
        "encode": (run.record(Unit("encode", target.tokenizer_label, unit.shard)), TARGET),
    }
    for label, source in teachers_of(run, unit.source).items():
        encoded = run.record(Unit("encode", source.tokenizer_label, unit.shard))
        shards[f"encode/{label}"] = (encoded, ["ends"])
        shards[f"capture/{label}"] = (run.record(Unit("capture", label, unit.shard)), CAPTURED)
        shards[f"align/{label}"] = (run.record(Unit("align", label, unit.shard)), how.aligned)

    def compute(path: Path, progress: Progress) -> Counts:
        files = {name: (verified_path(run.store, record), columns) for name, (record, columns) in shards.items()}
        documents = fused_documents(files, how, ROWS_AT_ONCE)
        return fuse_shard(documents, Fuser(settings, how), prepared.counts["chunks"], unit.part, path, progress)

    fingerprints: dict[str, Any] = {"target": [target.start_id, target.end_id], "sources": list(how.labels)}
    return Work(
        stage="fuse",
        place="fuse",
        name=unit.part,
        shard=unit.shard,
        compute=compute,
        settings=key_settings(settings),
        inputs=tuple(record for record, _ in shards.values()),
        fingerprints=fingerprints,
    )


class Fuser:
    """Turns documents into rows by one rule."""

    def __init__(self, settings: FuseSettings, how: Reading) -> None:
        self.how = how
        self.settings = settings
        self._rule = FUSIONS.get(settings.rule)
        self._options = checked_options(FUSIONS, settings.rule, settings.options)
        self._priors = np.array([settings.source_weights.get(label, 1.0) for label in how.labels], np.float64)

    def scores(self, documents: Documents) -> NDArray[np.float64]:
        """Return the sources' scores [S, D]."""
        return document_scores(documents, self.settings.score, half=self.how.logits)

    def evidence(self, documents: Documents, scores_SD: NDArray[np.float64]) -> Evidence:
        """Return what the rule judges the sources by at each position of documents with these scores."""
        scores_ST = position_scores(documents, scores_SD, by_span=self.settings.granularity == "chunk")
        return Evidence(scores_ST, self._priors, self.how.own, lambda: documents.steps)

    def rows(self, documents: Documents) -> FusedRows:
        """Fuse documents, one row per chunk; all rows of a document carry its mean weights and its scores."""
        scores_SD = self.scores(documents)
        fused, weights_ST, held_T = self.fused(documents.sources, self.evidence(documents, scores_SD))
        chunks_D = np.diff(documents.documents)
        return FusedRows(
            documents.identity,
            documents.splits,
            documents.domains,
            documents.passages.offsets,
            documents.passages.inputs,
            documents.passages.labels,
            fused,
            winners(documents.sources, weights_ST),
            np.repeat(mean_shares(weights_ST, documents.position_offsets), chunks_D, axis=1),
            np.repeat(scores_SD, chunks_D, axis=1),
            held_T,
        )

    def block_row(self, block: Block, part: str) -> FusedRows:
        """Fuse one packed block."""
        sources, scores_S1 = block.sources, block.scores[:, None]
        inputs = block.inputs
        evidence = Evidence(np.repeat(scores_S1, len(inputs), axis=1), self._priors, self.how.own, block.steps)
        fused, weights_ST, held_T = self.fused(sources, evidence)
        offsets = np.array([0, len(inputs)])
        identity = {
            "doc_id": pa.array([f"{part}/{block.split}/{block.number:05d}"]),
            "chunk": pa.array([0], pa.int32()),
            "text_hash": pa.array([block.text_hash], pa.binary(16)),
        }
        return FusedRows(
            identity, [block.split], [block.domain], offsets, inputs, block.labels, fused,
            winners(sources, weights_ST), mean_shares(weights_ST, offsets), scores_S1, held_T,
        )  # fmt: skip

    def fused(
        self, sources: Sequence[Distributions], evidence: Evidence
    ) -> tuple[Distributions, NDArray[np.float64], NDArray[np.bool_]]:
        """Return the targets, the sources' weights [S, T], and where a target was held back."""
        fused, weights_ST = self._rule(sources, evidence, **self._options)
        fused, weights_ST, held_T = self._where_worth_it(fused, weights_ST, evidence)
        if self.how.logits:  # kept as they are, so that bfloat16 comes back
            return fused, weights_ST, held_T
        rounded = Distributions(fused.offsets, fused.ids, _rounded(fused.logprobs), np.clip(fused.mass, 0, 1))
        return rounded, weights_ST, held_T

    def _where_worth_it(
        self, fused: Distributions, weights_ST: NDArray[np.float64], evidence: Evidence
    ) -> tuple[Distributions, NDArray[np.float64], NDArray[np.bool_]]:
        least, own = self.settings.min_advantage, self.how.own
        if least is None:
            return fused, weights_ST, np.zeros(len(fused), np.bool_)
        assert own is not None, "the recipe was checked"
        worth_T = advantage(evidence.scores, own, self._priors) >= least
        held_T = ~worth_T & (fused.counts > 0)
        return held_back(fused, worth_T), np.where(worth_T, weights_ST, 0.0), held_T


def _rounded(logprobs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to fp16, a part at a time: what rounding needs beside it is then small, however long a document is."""
    rounded = np.empty_like(logprobs)
    for start in range(0, len(logprobs), ROUNDED_AT_ONCE):
        part = slice(start, start + ROUNDED_AT_ONCE)
        rounded[part] = half_precision(logprobs[part])
    return rounded


def fuse_shard(
    documents: Iterator[Documents], fuser: Fuser, chunks: int, part: str, path: Path, progress: Progress
) -> Counts:
    """Fuse one shard; return what was served, and how much each source counted, summed over documents (or blocks).

    Blocks leave out documents that a source has no score for: `left_out`.
    """
    packing = fuser.settings.granularity == "block"
    packer = Packer(fuser.settings.block_tokens)
    counts: Counts = {"chunks": 0, "positions": 0, "served": 0, "mass": 0.0, "documents": 0}
    if fuser.settings.min_advantage is not None:
        counts["held_back"] = 0  # positions whose target was not worth learning from
    counts["weight"] = dict.fromkeys(fuser.how.labels, 0.0)
    done = 0
    with writing_fused(path) as add:

        def put(rows: FusedRows, firsts: NDArray[np.int64]) -> None:
            add(rows)
            _count(counts, rows, firsts)

        for group in documents:
            if packing:
                for block in packer.add(group, fuser.scores(group)):
                    put(fuser.block_row(block, part), np.zeros(1, np.int64))
            else:
                put(fuser.rows(group), group.documents[:-1])
            counts["documents"] += len(group.documents) - 1
            done += len(group.last)
            progress(done, chunks)
        for block in packer.rest():
            put(fuser.block_row(block, part), np.zeros(1, np.int64))
    return counts | ({"left_out": packer.left_out} if packing else {})


def _count(counts: Counts, rows: FusedRows, firsts: NDArray[np.int64]) -> None:
    """Add rows to the counts; `firsts` are the first rows of what was weighed as one."""
    counts["chunks"] += len(rows.splits)
    counts["positions"] += len(rows.inputs)
    counts["served"] += int((rows.fused.counts > 0).sum())
    counts["mass"] += float(rows.fused.mass.sum())
    if "held_back" in counts:
        counts["held_back"] += int(rows.held_back.sum())
    weights: Mapping[str, float] = counts["weight"]
    counts["weight"] = {
        label: weight + float(sum(rows.weights[s, firsts])) for s, (label, weight) in enumerate(weights.items())
    }
