"""Where a run's fused targets do worst or best, or its sources disagree: what a user should look at first."""

# legend: T positions of a chunk

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.headroom import gold_nats
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.engine import Progress, silent
from logitfuse.tasks.headroom_chunks import Chunk, shards_read, validation_chunks

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

By = Literal["harm", "loss", "gain", "disagreement"]
MOST_SHARDS = 16  # spread over the run; more are not read unless they are asked for


@dataclass(frozen=True, order=True)
class Worst:
    """A position, and its rank: in nats, infinite where the true token is ruled out."""

    nats: float
    known: float  # log-probability that the student gives the true token before training
    doc_id: str
    shard: int
    chunk: int
    place: int  # of the position in its chunk


@dataclass(frozen=True)
class Looked:
    """What was found, the worst first, in how many positions."""

    found: list[Worst]
    positions: int


def worst_positions(
    run: Run, shards: Sequence[int], count: int, by: By = "harm", progress: Progress = silent
) -> Looked:
    """Return the `count` worst positions of these shards, one of each document at most.

    harm: what the true token costs under the fused targets, as the loss reads them, more than it costs the student
    itself before training. loss: what it costs under the fused targets. gain: the reverse of harm. disagreement:
    what it costs under the source that knows it least more than under the one that knows it best. Positions that
    nothing is taught at are left out. One chunk is in memory at a time.

    Raises `BadInput` where the student's own predictions were not captured.
    """
    if not run.recipe.include_target:
        raise BadInput(
            "--worst: it compares the fused targets with what the target model itself predicts, which this run did "
            "not capture (include_target). Look at documents by --doc or --search."
        )
    kept: list[Worst] = []
    positions = 0
    for done, shard in enumerate(shards):
        for of_document in _documents(run, shard, by):
            positions += of_document[1]
            if of_document[0] is not None:
                (heapq.heappush if len(kept) < count else heapq.heappushpop)(kept, of_document[0])
        progress(done + 1, len(shards))
    return Looked(sorted(kept, reverse=True), positions)


def _documents(run: Run, shard: int, by: By) -> Iterator[tuple[Worst | None, int]]:
    """Yield each document's worst position, None where it has none that is taught, and how many are."""
    for split in run.prepared(shard).counts["splits"]:
        doc_id, worst, count, number = "", None, 0, 0
        for chunk in validation_chunks(run, shards_read(run, shard), split):
            if chunk.doc_id != doc_id:
                if doc_id:
                    yield worst, count
                doc_id, worst, count, number = chunk.doc_id, None, 0, 0
            found, taught = _of_chunk(run, chunk, shard, number, by)
            count, number = count + taught, number + 1
            worst = max((one for one in (worst, found) if one is not None), default=None)
        if doc_id:
            yield worst, count


def _of_chunk(run: Run, chunk: Chunk, shard: int, number: int, by: By) -> tuple[Worst | None, int]:
    if chunk.fused is None:
        return None, 0
    nats_T = gold_nats(chunk.fused.rows, chunk.fused.mass_T, chunk.labels_T, chunk.own, run.recipe.train.residual)
    rank_T = _ranks(run, chunk, nats_T, by)
    known_T = (chunk.labels_T != NO_LABEL) & np.isfinite(chunk.own.gold_T) & ~np.isnan(nats_T) & (rank_T > -np.inf)
    if not known_T.any():
        return None, 0
    bad_T: NDArray[np.float64] = np.where(known_T, rank_T, -np.inf)
    # Of positions that are ruled out, which are all infinite, the worst is what the student knew best.
    at = int(np.lexsort((chunk.own.gold_T, bad_T))[-1])
    return Worst(float(bad_T[at]), float(chunk.own.gold_T[at]), chunk.doc_id, shard, number, at), int(known_T.sum())


def _ranks(run: Run, chunk: Chunk, nats_T: NDArray[np.float64], by: By) -> NDArray[np.float64]:
    """Return what positions are ranked by, in nats, float64 [T]; -inf where it is not known."""
    if by == "disagreement":
        return _disagreement(run, chunk)
    return {"harm": nats_T + chunk.own.gold_T, "loss": nats_T, "gain": -nats_T - chunk.own.gold_T}[by]


def _disagreement(run: Run, chunk: Chunk) -> NDArray[np.float64]:
    """Return how far apart the sources' nats of the true token are; -inf where fewer than two give it any."""
    others = [
        gold_nats(alone.rows, alone.mass_T, chunk.labels_T, chunk.own, run.recipe.train.residual)
        for alone in chunk.alone.values()
    ]
    nats_ST = np.stack([-chunk.own.gold_T, *others])
    finite_ST = np.isfinite(nats_ST)
    least_T, most_T = (np.where(finite_ST, nats_ST, fill) for fill in (np.inf, -np.inf))
    return np.where(finite_ST.sum(axis=0) > 1, most_T.max(axis=0) - least_T.min(axis=0), -np.inf)
