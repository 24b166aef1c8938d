"""Stage headroom: before anything is trained, do the fused targets predict held-out text better than the target?

It measures validation text alone. What it says is for choosing between recipes, and the test split is for the last
comparison, after all choices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.headroom import Tally, fused_classes, gold_nats
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.shards import verified_path
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.headroom_blocks import VALIDATION, Targets
from logitfuse.tasks.headroom_chunks import FUSED, Chunk, Files, shards_read, validation_chunks
from logitfuse.tasks.headroom_table import Row, table_rows, warnings
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

ENOUGH_POSITIONS = 1_000_000  # further shards are not read: the standard error is below 0.005 nats by then
FILE = "headroom.json"
TEST = "test"
FORMAT = 2  # of that file: 1 left ruled-out positions out of the means


def units(run: Run) -> list[Unit]:
    """One measurement per run."""
    return [Unit("headroom")]


def work(run: Run, unit: Unit) -> Work:
    """Describe the measurement; it reads shards that hold validation text, and no model."""
    reason = why_not(run)
    shards = [] if reason else [shards_read(run, shard) for shard in validation_shards(run)]

    def compute(path: Path, progress: Progress) -> Counts:
        facts = _facts(run, reason, *(([], 0) if reason else measure(run, shards, progress)))
        (path / FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        return {"positions": facts["positions"], "worse_than_target": facts["warnings"]}

    return Work(
        stage="headroom",
        place="headroom",
        name="headroom",
        compute=compute,
        inputs=tuple(record for files in shards for record, _ in files.values()),
        fingerprints={
            "format": FORMAT,
            "why_not": reason,
            "residual": run.recipe.train.residual,
            "sources": list(run.teachers),
            "positions": ENOUGH_POSITIONS,
        },
        folder=True,
    )


def why_not(run: Run) -> str | None:
    """Say why the headroom of a run cannot be measured, None if it can."""
    if not run.recipe.include_target:
        return (
            "what the target itself predicts was not captured, so there is nothing to compare with. "
            "Set include_target to true."
        )
    if validation_shards(run):
        return None
    if shards_with(run, TEST):
        return (
            "of the corpus only test text is held out, which is for the last comparison alone. Give the corpus a "
            "validation split (corpus.validation_split), or empty corpus.test_split and let corpus.held_out_share cut "
            "one from its training text."
        )
    return "no text is held out. Raise corpus.held_out_share, or give the corpus a validation split of its own."


def validation_shards(run: Run) -> list[int]:
    """Return the numbers of the shards that hold validation text."""
    return shards_with(run, VALIDATION)


def shards_with(run: Run, split: str) -> list[int]:
    """Return the numbers of the shards that hold text of a split."""
    return [s for s, record in enumerate(run.shards) if record.counts["splits"].get(split)]


def read_headroom(run: Run) -> dict[str, Any]:
    """Return what was measured; raises `ShardMissing` before the stage is done."""
    record = run.record(Unit("headroom"))
    facts: dict[str, Any] = json.loads(verified_path(run.store, record).read_text("utf-8"))
    return facts


def _facts(run: Run, reason: str | None, rows: list[Row], positions: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "measured": reason is None,
        "why_not": reason,
        "target": run.target.label,
        "rule": run.recipe.fuse.rule,
        "residual": run.recipe.train.residual,
        "positions": positions,
        "rows": rows,
        "warnings": warnings(rows),
    }


def measure(run: Run, shards: list[Files], progress: Progress) -> tuple[list[Row], int]:
    """Return the table's rows over the validation text of these shards, and how many positions they count."""
    tally, positions = Tally(), 0
    for number, files in enumerate(shards):
        positions += sum(add_chunk(tally, chunk, run) for chunk in validation_chunks(run, files))
        progress(number + 1, len(shards))
        if positions >= ENOUGH_POSITIONS:
            break
    return table_rows(tally), positions


def add_chunk(tally: Tally, chunk: Chunk, run: Run) -> int:
    """Add one chunk's positions to the fused targets' sums and each source's, and return their number."""
    known_T = (chunk.labels_T != NO_LABEL) & np.isfinite(chunk.own.gold_T)
    for subject, targets, classes_T in _subjects(chunk):
        nats_T = gold_nats(targets.rows, targets.mass_T, chunk.labels_T, chunk.own, run.recipe.train.residual)
        group = (VALIDATION, subject, chunk.domain)
        tally.add(group, classes_T[known_T], -chunk.own.gold_T[known_T], nats_T[known_T])
    return int(known_T.sum())


def _subjects(chunk: Chunk) -> Iterator[tuple[str, Targets, NDArray[np.int8]]]:
    """Yield what is measured with its positions' classes: the fused targets, then each source alone."""
    if chunk.fused is not None:
        yield FUSED, chunk.fused, fused_classes(chunk.classes_ST, chunk.fused.winner_T)
    for s, label in enumerate(chunk.teachers):
        if label in chunk.alone:
            yield label, chunk.alone[label], chunk.classes_ST[s]
