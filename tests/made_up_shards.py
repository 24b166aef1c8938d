"""Made-up shards of three sources, and stage fuse on them."""

import hashlib
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels
from logitfuse.kernels.scores import Scored, nats_over_identical_bytes
from logitfuse.kernels.sparse import to_half_precision
from logitfuse.storage.schemas import ALIGN, CAPTURE, ENCODE, PREPARE
from logitfuse.storage.shards import writing_rows
from logitfuse.tasks.engine import silent
from logitfuse.tasks.fuse import Fuser, FuseSettings, fuse_shard
from logitfuse.tasks.fuse_documents import CAPTURED, PREPARED, TARGET, Reading, read_documents

LABELS, V, END = ("own", "second", "third"), 30, 29
Row = tuple[list[int], list[float]]


@dataclass
class Chunk:
    """One chunk and what each source has for it; `rows` are (ids, logits or log-probabilities) per position."""

    document: str
    number: int
    last: bool
    split: str
    domain: str
    ids: np.ndarray
    ends: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    source_ends: list[np.ndarray] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    gold: list[np.ndarray] = field(default_factory=list)
    rows: list[list[Row]] = field(default_factory=list)

    @property
    def identity(self) -> dict[str, Any]:
        return {"doc_id": self.document, "chunk": self.number, "text_hash": self.hash}

    @property
    def hash(self) -> bytes:
        return hashlib.blake2b(f"{self.document}/{self.number}".encode(), digest_size=16).digest()

    def scored(self, s: int) -> Scored:
        first = self.first[s]
        count = max(min(len(self.gold[s]), len(self.source_ends[s]) - first), 0)
        ends = self.source_ends[s][first : first + count].astype(np.int64)
        return Scored(consumed_bytes(self.source_ends[s], first, count), ends, -self.gold[s][:count].astype(float))


def tokenised(rng: np.random.Generator, size: int) -> np.ndarray:
    inner = rng.choice(np.arange(1, size), int(rng.integers(0, size)), replace=False) if size > 1 else np.zeros(0)
    ends = np.append(np.sort(inner), size).astype(np.int32) if size else np.zeros(0, np.int32)
    ends[:-1][rng.random(max(len(ends) - 1, 0)) < 0.1] = -1
    return ends


def made_up(seed: int, documents: int, *, start: int | None, past_end: bool, logits: bool) -> list[Chunk]:
    rng, chunks = np.random.default_rng(seed), []
    for d in range(documents):
        count = 1 if rng.random() < 0.6 else int(rng.integers(2, 5))
        split, domain = rng.choice(["train", "validation"], p=[0.7, 0.3]), rng.choice(["law", "code"])
        for c in range(count):
            size = int(rng.integers(0, 3)) if count == 1 and rng.random() < 0.3 else int(rng.integers(1, 14))
            ends = tokenised(rng, size)
            ids, last = rng.integers(0, END, len(ends)).astype(np.int32), c == count - 1
            inputs, labels = inputs_and_labels(ids, start=start, end=END if last else None, past_end=past_end)
            chunk = Chunk(f"doc-{d}", c, last, str(split), str(domain), ids, ends, inputs, labels)
            for s in range(len(LABELS)):
                add_source(rng, chunk, s, size, start, past_end, logits)
            chunks.append(chunk)
    return chunks


def add_source(
    rng: np.random.Generator, chunk: Chunk, s: int, size: int, start: int | None, past_end: bool, logits: bool
) -> None:
    ends = chunk.ends if s == 0 else tokenised(rng, size)
    first = (0 if start is not None else 1) if s == 0 else int(rng.integers(0, 2))
    count = len(ends) - first + chunk.last if len(ends) else 0
    gold = to_half_precision(-rng.gamma(2, 1.5, max(count, 0)))
    chunk.gold.append(np.append(gold, np.float32(np.nan)) if past_end and chunk.last and len(ends) else gold)
    chunk.source_ends.append(ends)
    chunk.first.append(first)
    chunk.rows.append([row(rng, s, logits) for _ in chunk.inputs])


def row(rng: np.random.Generator, s: int, logits: bool) -> Row:
    k = int(rng.integers(1, 6)) if s == 0 or rng.random() < 0.8 else 0
    values = np.sort(rng.normal(0, 4, k).astype(np.float16))[::-1].astype(np.float64)
    probs = np.exp(values) / (np.exp(values).sum() + 0.1)
    kept = values if logits else to_half_precision(np.log(probs))
    return rng.choice(V, k, replace=False).tolist(), kept.astype(np.float64).tolist()


def shards(folder: Path, chunks: list[Chunk], *, logits: bool) -> dict[str, tuple[Path, list[str]]]:
    folder.mkdir(exist_ok=True)
    files = {"prepare": (folder / "prepare", PREPARED), "encode": (folder / "encode", TARGET)}
    text = {"byte_start": 0, "byte_end": 0, "text": ""}
    put(files["prepare"][0], PREPARE, chunks, lambda c: text | {"last": c.last, "domain": c.domain, "split": c.split})
    put(files["encode"][0], ENCODE, chunks, lambda c: {"last": c.last, "ids": c.ids, "ends": c.ends})
    for s, label in enumerate(LABELS):
        encode, capture, align = (folder / f"{stage}-{label}" for stage in ("encode", "capture", "align"))
        put(encode, ENCODE, chunks, lambda c, s=s: {"last": c.last, "ids": c.source_ends[s], "ends": c.source_ends[s]})
        none: dict[str, list] = {
            "counts": [],
            "draws": [],
            "ids": [],
            "logprobs": [],
            "tail": [],
            "gold_rank": [],
            "logits": [],
        }
        put(capture, CAPTURE, chunks, lambda c, s=s, n=none: n | {"first": c.first[s], "gold_logprob": c.gold[s]})
        put(align, ALIGN, chunks, lambda c, s=s: aligned(c.rows[s], logits))
        files |= {f"encode/{label}": (encode, ["ends"]), f"capture/{label}": (capture, CAPTURED)}
        files[f"align/{label}"] = (align, ["counts", "ids", *(["logits"] if logits else ["logprobs", "mass"])])
    return files


def aligned(rows: list[Row], logits: bool) -> dict[str, Any]:
    values = [value for _, values in rows for value in values]
    return {
        "source_position": [-1] * len(rows),
        "counts": [len(ids) for ids, _ in rows],
        "ids": [i for ids, _ in rows for i in ids],
        "logprobs": values,
        "mass": [1.0 if logits else float(np.exp(values).sum()) for _, values in rows],
        "logits": values if logits else [],
    }


def put(path: Path, schema: Any, chunks: list[Chunk], columns: Any) -> None:
    with writing_rows(path, schema) as add:
        for chunk in chunks:
            add({**chunk.identity, **columns(chunk)})


def fuse(
    folder: Path, chunks: list[Chunk], settings: FuseSettings, *, start: int | None = None, past_end: bool = False,
    logits: bool = False, rows: int = 64, labels: tuple[str, ...] = LABELS,
) -> tuple[list[dict[str, Any]], dict[str, Any], Path]:  # fmt: skip
    how = Reading(
        SimpleNamespace(label="own", start_id=start, end_id=END), labels, past_end, logits, settings.temperature
    )  # type: ignore[arg-type]
    path = folder / f"fuse-{rows}.parquet"
    files = shards(folder / "shards", chunks, logits=logits)
    documents = read_documents(files, how, rows)
    counts = fuse_shard(documents, Fuser(settings, how), len(chunks), "part-00003", path, silent)
    return pq.read_table(path).to_pylist(), counts, path


def by_document(chunks: list[Chunk]) -> list[list[Chunk]]:
    return [list(group) for _, group in itertools.groupby(chunks, lambda c: c.document)]


def nats_per_byte(document: list[Chunk]) -> list[float]:
    found = [nats_over_identical_bytes([c.scored(s) for s in range(len(LABELS))]) for c in document]
    total = sum(size for _, size in found)
    return list(sum(nats for nats, _ in found) / total) if total else [math.inf] * len(LABELS)


def stored(row: dict[str, Any]) -> list[dict[int, float]]:
    borders = np.concatenate([[0], np.cumsum(row["counts"], dtype=int)])
    return [dict(zip(row["ids"][a:b], row["logprobs"][a:b], strict=True)) for a, b in itertools.pairwise(borders)]


SETTINGS = [
    {"rule": "min_ce"},
    {"rule": "avg_ce", "score": "nats_per_token", "source_weights": {"second": 3.0}},
    {"rule": "weighted", "options": {"temperature": 0.2}, "granularity": "chunk"},
    {"rule": "bayes", "options": {"switch": 0.01}},
    {"rule": "min_ce", "granularity": "chunk", "options": {"precision": "bf16"}},
]
