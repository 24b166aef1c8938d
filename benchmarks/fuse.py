"""Fusion: MinCE against memcpy, AvgCE against reading the shards that it fuses.

min_ce: the whole rule as stage fuse calls it, scores to fused rows and weights: it chooses the winners and copies.
memcpy: a copy of the arrays of those fused rows, and nothing else.
avg_ce: the whole rule as well: weights from scores, the sparse sum, each row sorted.
read: the same three shards' columns from Parquet into flat arrays, by the stage's own reader; checksums are not read.

Three sources of top-10 rows, on a real vocabulary's scale, ids by rank from overlapping sets; the shards are Parquet as
stage align writes them. Both rules are checked against plain sums before they are timed. Nothing is ever densified.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import at_least, at_most, interleaved, options, ratio, show, write

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.distributions import Distributions, joined
from logitfuse.kernels.fusion.evidence import Evidence
from logitfuse.kernels.sparse import to_half_precision
from logitfuse.storage.schemas import ALIGN
from logitfuse.storage.shards import read_batches, writing_rows
from logitfuse.tasks.fuse import ROWS_AT_ONCE
from logitfuse.tasks.fuse_documents import flat

GOALS = {"min_ce_over_memcpy": at_least(0.3), "avg_ce_over_read": at_most(1.0)}
SOURCES, K, VOCABULARY, TOKENS_PER_CHUNK = 3, 10, 32_000, 1000
COLUMNS = ["doc_id", "chunk", "text_hash", "counts", "ids", "logprobs", "mass"]


def made_up(rng: np.random.Generator, positions: int, shared_TK: np.ndarray) -> Distributions:
    """Return top-10 rows, a tenth of them empty: two ids in three as the other sources have them."""
    own_TK = rng.integers(0, VOCABULARY, shared_TK.shape)
    ids_TK = np.where(rng.random(shared_TK.shape) < 2 / 3, shared_TK, own_TK).astype(np.int32)
    ids_TK = np.where(np.arange(K) == _repeats(ids_TK), VOCABULARY + np.arange(K), ids_TK).astype(np.int32)
    probs_TK = rng.dirichlet(np.arange(K + 1, 0, -1) ** 2.0 / 40, positions)[:, :K]
    probs_TK = np.sort(np.maximum(probs_TK, 1e-6))[:, ::-1] / 1.001
    served_T = rng.random(positions) < 0.9
    offsets = np.concatenate([[0], np.cumsum(served_T * K)])
    logprobs = to_half_precision(np.log(probs_TK[served_T])).ravel()
    return Distributions(offsets, ids_TK[served_T].ravel(), logprobs, np.where(served_T, probs_TK.sum(1), 0.0))


def _repeats(ids_TK: np.ndarray) -> np.ndarray:
    """Mark, for each entry, its own place where the row has that id already, -1 elsewhere."""
    order = np.argsort(ids_TK, axis=1, kind="stable")
    in_order = np.take_along_axis(ids_TK, order, 1)
    again = np.concatenate([np.zeros((len(ids_TK), 1), bool), in_order[:, 1:] == in_order[:, :-1]], axis=1)
    found = np.full(ids_TK.shape, -1)
    np.put_along_axis(found, order, np.where(again, order, -1), 1)
    return found


def write_shard(path: Path, rows: Distributions) -> None:
    """Write rows as stage align does."""
    with writing_rows(path, ALIGN) as add:
        for number, start in enumerate(range(0, len(rows), TOKENS_PER_CHUNK)):
            part = rows.take(start, min(start + TOKENS_PER_CHUNK, len(rows)))
            identity = {"doc_id": f"doc-{number}", "chunk": 0, "text_hash": bytes(16)}
            columns: dict[str, Any] = {"counts": part.counts, "ids": part.ids, "logprobs": part.logprobs}
            add(identity | columns | {"mass": part.mass, "source_position": part.counts, "logits": []})


def read_shard(path: Path) -> Distributions:
    """Read a shard's rows as stage fuse does."""
    parts = []
    for batch in read_batches(path, COLUMNS, ROWS_AT_ONCE):
        counts, ids, logprobs, mass = (flat(batch, name)[1] for name in COLUMNS[3:])
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        parts.append(Distributions(offsets, ids, logprobs, mass.astype(np.float64)))
    return joined(parts)


def read_only(paths: list[Path]) -> int:
    """Read all columns that fusion needs into flat arrays, as the stage does, and do nothing with them."""
    entries = 0
    for path in paths:
        for batch in read_batches(path, COLUMNS, ROWS_AT_ONCE):
            entries += sum(len(flat(batch, name)[1]) for name in COLUMNS[3:])
    return entries


def each(work: Callable[..., object], batches: Sequence[tuple[Any, ...]]) -> None:
    """Do the batches one after the other; like the stage, keep none of the results."""
    for batch in batches:
        work(*batch)


def in_batches(
    sources: list[Distributions], evidence: Evidence, size: int
) -> list[tuple[list[Distributions], Evidence]]:
    """Cut positions as the stage meets them: as many as a batch of chunks holds."""
    cuts = range(0, len(sources[0]), size)
    return [
        (
            [s.take(a, min(a + size, len(s))) for s in sources],
            Evidence(evidence.scores[:, a : a + size].copy(), evidence.priors),
        )
        for a in cuts
    ]


def copies(rows: Distributions) -> list[np.ndarray]:
    """Copy the bytes of fused rows."""
    return [values.copy() for values in (rows.offsets, rows.ids, rows.logprobs, rows.mass)]


def check(sources: list[Distributions], evidence: Evidence, positions: int = 300) -> None:
    """Hold both rules equal to dictionaries summed in plain Python."""
    for rule in ("min_ce", "avg_ce"):
        fused, weights_ST = FUSIONS.get(rule)(sources, evidence)
        for t in range(positions):
            rows = [_row(source, t) for source in sources]
            serving = [s for s, row in enumerate(rows) if row or rule == "min_ce"]
            total = sum(weights_ST[s, t] for s in serving)
            wanted: dict[int, float] = {}
            for s in serving:
                for token, p in rows[s].items():
                    if weights_ST[s, t] > 0:
                        wanted[token] = wanted.get(token, 0.0) + weights_ST[s, t] / total * p
            found = _row(fused, t)
            assert found.keys() == wanted.keys()
            assert all(abs(found[token] - p) <= 1e-6 * p for token, p in wanted.items())
            assert list(found.values()) == sorted(found.values(), reverse=True)


def _row(rows: Distributions, t: int) -> dict[int, float]:
    part = slice(rows.offsets[t], rows.offsets[t + 1])
    return dict(zip(rows.ids[part].tolist(), np.exp(rows.logprobs[part].astype(np.float64)).tolist(), strict=True))


def main() -> None:
    parser = options(__doc__)
    arguments = parser.parse_args()
    positions, repeats = (200_000, 7) if arguments.quick else (1_000_000, 11)
    rng = np.random.default_rng(0)
    shared_TK = rng.integers(0, VOCABULARY, (positions, K))
    sources = [made_up(rng, positions, shared_TK) for _ in range(SOURCES)]
    documents = np.arange(positions) // TOKENS_PER_CHUNK
    scores_ST = rng.uniform(0.5, 1.5, (SOURCES, documents[-1] + 1))[:, documents]
    evidence = Evidence.equal(np.ascontiguousarray(scores_ST))
    min_ce, avg_ce = FUSIONS.get("min_ce"), FUSIONS.get("avg_ce")
    check(sources, evidence)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"source-{s}.parquet" for s in range(SOURCES)]
        for path, rows in zip(paths, sources, strict=True):
            write_shard(path, rows)
        for path, rows in zip(paths, sources, strict=True):
            found = read_shard(path)
            assert (found.ids == rows.ids).all() and (found.logprobs == rows.logprobs).all()
        batches = in_batches(sources, evidence, ROWS_AT_ONCE * TOKENS_PER_CHUNK)
        fused = [(min_ce(*batch)[0],) for batch in batches]
        sides = {
            "min_ce": lambda: each(min_ce, batches),
            "memcpy": lambda: each(copies, fused),
            "avg_ce": lambda: each(avg_ce, batches),
            "read": lambda: read_only(paths),
        }
        seconds = interleaved(sides, repeats, clock=time.process_time)
    metrics = {
        "min_ce_over_memcpy": ratio(seconds, "memcpy", "min_ce"),
        "avg_ce_over_read": ratio(seconds, "avg_ce", "read"),
    }
    show("fuse", metrics, GOALS, seconds)
    inputs = {"positions": positions, "sources": SOURCES, "k": K, "vocabulary": VOCABULARY, "repeats": repeats}
    write(arguments.json, metrics, GOALS, inputs)


if __name__ == "__main__":
    main()
