"""The whole stage on made-up shards against plain loops: every granularity, and the same bytes for any batch size."""

import hashlib
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from published import fusion as published

from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels
from logitfuse.kernels.scores import Scored, nats_over_identical_bytes
from logitfuse.kernels.sparse import to_half_precision
from logitfuse.storage.errors import ShardMismatch
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


@pytest.mark.parametrize("start", [None, 28])
def test_min_ce_copies_the_documents_best_source(tmp_path: Path, start: int | None) -> None:
    chunks = made_up(1, 40, start=start, past_end=False, logits=False)
    rows, counts, _ = fuse(tmp_path, chunks, FuseSettings(rule="min_ce"), start=start)
    assert [(r["doc_id"], r["chunk"], r["text_hash"]) for r in rows] == [tuple(c.identity.values()) for c in chunks]
    scores = {c[0].document: nats_per_byte(c) for c in by_document(chunks)}
    wins = dict.fromkeys(LABELS, 0)
    for chunk, row in zip(chunks, rows, strict=True):
        assert (row["inputs"], row["labels"]) == (chunk.inputs.tolist(), chunk.labels.tolist())
        assert (row["split"], row["domain"]) == (chunk.split, chunk.domain)
        wanted = scores[chunk.document]
        best = int(np.argmin(wanted)) if min(wanted) < math.inf else None
        np.testing.assert_allclose(row["scores"], [s if s < math.inf else np.nan for s in wanted], rtol=1e-6)
        positions = sum(len(c.inputs) for c in chunks if c.document == chunk.document)
        assert row["weights"] == [float(s == best and positions > 0) for s in range(3)]
        wins[LABELS[best or 0]] += chunk.number == 0 and best is not None and positions > 0
        kept = [dict(zip(*r, strict=True)) for r in chunk.rows[best]] if best is not None else [{}] * len(chunk.inputs)
        assert stored(row) == kept
        assert row["winner"] == [best if r else -1 for r in kept]
        np.testing.assert_allclose(row["mass"], [min(1, sum(np.exp(list(r.values())))) for r in kept], rtol=1e-6)
    assert counts["weight"] == wins and counts["documents"] == 40 and counts["chunks"] == len(chunks)
    assert counts["positions"] == sum(len(c.inputs) for c in chunks)
    assert counts["served"] == sum(sum(n > 0 for n in r["counts"]) for r in rows)
    assert counts["mass"] == pytest.approx(sum(sum(r["mass"]) for r in rows))


SETTINGS = [
    {"rule": "min_ce"},
    {"rule": "avg_ce", "score": "nats_per_token", "source_weights": {"second": 3.0}},
    {"rule": "weighted", "options": {"temperature": 0.2}, "granularity": "chunk"},
    {"rule": "bayes", "options": {"switch": 0.01}},
    {"rule": "min_ce", "granularity": "chunk", "options": {"precision": "bf16"}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.get("rule", "min_ce"))
def test_the_same_bytes_for_any_batch_size(tmp_path: Path, settings: dict) -> None:
    chunks = made_up(2, 60, start=28, past_end=False, logits=False)
    whole = fuse(tmp_path, chunks, FuseSettings(**settings), start=28, rows=1000)[2].read_bytes()
    for rows in (1, 3, 64):
        assert fuse(tmp_path, chunks, FuseSettings(**settings), start=28, rows=rows)[2].read_bytes() == whole


@pytest.mark.parametrize("rule", ["min_ce", "avg_ce", "bayes"])
def test_blocks_are_the_same_bytes_for_any_batch_size(tmp_path: Path, rule: str) -> None:
    chunks = made_up(3, 60, start=None, past_end=True, logits=True)
    settings = FuseSettings(granularity="block", block_tokens=16, rule=rule, score="nats_per_token")
    files = [fuse(tmp_path, chunks, settings, past_end=True, logits=True, rows=n)[2].read_bytes() for n in (1, 3, 64)]
    assert files[0] == files[1] == files[2]


def test_bayes_reads_no_later_than_each_position(tmp_path: Path) -> None:
    """Whatever later tokens cost, earlier rows stay; what a position has read counts by the textbook."""
    chunks = made_up(4, 12, start=28, past_end=False, logits=False)
    settings = FuseSettings(rule="bayes", options={"switch": 0.0})
    before, _, _ = fuse(tmp_path, chunks, settings, start=28)
    for chunk in chunks:  # from the fifth byte of each document's second chunk on, everything costs something else
        for s in range(3):
            begins = consumed_bytes(chunk.source_ends[s], chunk.first[s], len(chunk.gold[s]))
            hidden = np.zeros(len(begins), bool) if chunk.number == 0 else np.ones(len(begins), bool)
            chunk.gold[s][hidden] = -9.0 * (s + 1)
    after, _, _ = fuse(tmp_path, chunks, settings, start=28)
    changed = 0
    for chunk, old, new in zip(chunks, before, after, strict=True):
        if chunk.number == 0:
            assert all(old[name] == new[name] for name in ("ids", "logprobs", "counts", "winner", "mass"))
        changed += old["logprobs"] != new["logprobs"]
    assert changed


def test_chunks_choose_by_the_text_between_common_borders(tmp_path: Path) -> None:
    chunks = made_up(5, 30, start=28, past_end=False, logits=False)
    rows, _, _ = fuse(tmp_path, chunks, FuseSettings(rule="min_ce", granularity="chunk"), start=28)
    choices = 0
    for document in by_document(chunks):
        otherwise = nats_per_byte(document)
        for chunk in document:
            row = rows[chunks.index(chunk)]
            for t, (low, high) in enumerate(spans(chunk)):
                scores = otherwise if low is None else [between(chunk.scored(s), low, high) for s in range(3)]
                best = int(np.argmin(scores)) if min(scores) < math.inf else None
                wanted = dict(zip(*chunk.rows[best][t], strict=True)) if best is not None else {}
                assert stored(row)[t] == wanted
                choices += low is not None
    assert choices > 50


def spans(chunk: Chunk) -> list[tuple[int, int] | tuple[None, None]]:
    """For each position the common borders around what it has consumed, None outside of them."""
    borders = {0, *(int(b) for b in chunk.ends if b >= 0)}
    for s in range(3):
        scored = chunk.scored(s)
        borders &= {int(b) for b in [*scored.begins[:1], *scored.ends] if b >= 0}
    found, read = [], 0
    for byte in consumed_bytes(chunk.ends, 0, len(chunk.inputs)):
        read = max(read, int(byte))
        low, high = (
            max((b for b in borders if b <= read), default=None),
            min((b for b in borders if b > read), default=None),
        )
        found.append((None, None) if low is None or high is None else (low, high))
    return found


def between(scored: Scored, low: int, high: int) -> float:
    first = min(i for i, b in enumerate(scored.begins) if b == low)
    return float(scored.nats[first : max(i for i, b in enumerate(scored.ends) if b == high) + 1].sum()) / (high - low)


def published_documents(chunks: list[Chunk]) -> dict[str, list[published.Document]]:
    """Each split's documents as the published code has them; an inner chunk's last token has empty rows here."""
    found: dict[str, list[published.Document]] = {}
    for document in by_document(chunks):
        tokens = [int(t) for c in document for t in c.ids] + ([END] if len(document[-1].ids) else [])
        metrics = [published.metric([-float(g) for c in document for g in c.gold[s] if g == g]) for s in range(3)]
        rows = [[r for c in document for r in [*c.rows[s], *([([], [])] * (not c.last))]] for s in range(3)]
        found.setdefault(document[0].split, []).append(published.Document(tokens, metrics, rows))
    return found


@pytest.mark.parametrize("rule", ["min_ce", "avg_ce"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_blocks_are_the_published_packing_and_choice(tmp_path: Path, rule: str, temperature: float) -> None:
    chunks = made_up(6, 80, start=None, past_end=True, logits=True)
    alone = [c for c in chunks if c.last and c.number == 0 and len(c.ids)]
    for chunk in alone[:3]:  # one source that predicts nothing is enough for a document to be left out
        chunk.gold[1] = np.full(1, np.nan, np.float32)
    settings = FuseSettings(
        rule=rule, options={"precision": "bf16"}, granularity="block", block_tokens=16, score="nats_per_token",
        temperature=temperature,
    )  # fmt: skip
    rows, counts, _ = fuse(tmp_path, chunks, settings, past_end=True, logits=True)
    documents = published_documents(chunks)
    left_out = sum(any(math.isnan(m) for m in d.metrics) for split in documents.values() for d in split)
    assert 0 < left_out == counts["left_out"] and counts["documents"] == 80 and counts["chunks"] == len(rows)
    for split, wanted in documents.items():
        found = [row for row in rows if row["split"] == split]
        blocks = published.packed(wanted, 16)
        assert [row["doc_id"] for row in found] == [f"part-00003/{split}/{n:05d}" for n in range(len(blocks))]
        for row, block in zip(found, blocks, strict=True):
            assert row["chunk"] == 0 and row["inputs"] == block.tokens
            assert row["labels"] == [*block.tokens[1:], -100]
            np.testing.assert_array_equal(np.array(row["scores"], np.float32), np.array(block.metrics, np.float32))
            dense = published.distributions(block, V, temperature)
            theirs = (
                published.min_ce(dense, block.metrics, True)[0]
                if rule == "min_ce"
                else published.avg_ce(dense, block.metrics)[0]
            )
            for t, kept in enumerate(stored(row)):
                ours = torch.zeros(V, dtype=torch.bfloat16)
                for token, logprob in kept.items():
                    ours[token] = math.exp(logprob)
                assert torch.equal(ours, theirs[t])
                assert row["mass"][t] == pytest.approx(float(theirs[t].double().sum()), abs=1e-6)
    assert {row["domain"] for row in rows} >= {"mixed"}


def test_blocks_know_what_they_are_made_of(tmp_path: Path) -> None:
    chunks = made_up(7, 30, start=None, past_end=True, logits=False)
    settings = FuseSettings(rule="min_ce", granularity="block", block_tokens=9)
    rows, counts, _ = fuse(tmp_path, chunks, settings, past_end=True)
    assert len({row["text_hash"] for row in rows}) > len(rows) // 2 and {len(row["text_hash"]) for row in rows} == {16}
    assert all(len(row["inputs"]) == 9 for row in rows if int(row["doc_id"][-5:]) == 0)
    for label, weight in counts["weight"].items():
        assert weight == sum(row["weights"][LABELS.index(label)] for row in rows)
    other, _, _ = fuse(tmp_path, made_up(8, 30, start=None, past_end=True, logits=False), settings, past_end=True)
    assert [row["text_hash"] for row in rows] != [row["text_hash"] for row in other]


def test_shards_that_do_not_hold_what_is_asked_for_are_refused(tmp_path: Path) -> None:
    chunks = made_up(9, 5, start=None, past_end=False, logits=False)
    with pytest.raises(ShardMismatch, match="Redo stage 'align'"):
        fuse(tmp_path, chunks, FuseSettings(), past_end=True)
    with pytest.raises(ShardMismatch, match="Redo stage 'align'"):
        files = shards(tmp_path / "other", chunks, logits=False)
        target = SimpleNamespace(label="own", start_id=None, end_id=END)
        how = Reading(target, LABELS, False, True, 1.0)  # type: ignore[arg-type]
        list(read_documents({n: (p, how.aligned if "align" in n else c) for n, (p, c) in files.items()}, how, 64))


def test_without_the_targets_own_distributions_empty_rows_stay_empty(tmp_path: Path) -> None:
    chunks = made_up(10, 20, start=None, past_end=True, logits=True)
    settings = FuseSettings(rule="min_ce", options={"precision": "bf16"}, score="nats_per_token")
    with_own, _, _ = fuse(tmp_path, chunks, settings, past_end=True, logits=True)
    without, _, _ = fuse(tmp_path, chunks, settings, past_end=True, logits=True, labels=LABELS[1:])
    assert all(all(row["counts"]) for row in with_own if row["weights"] != [0, 0, 0])
    assert not all(all(row["counts"]) for row in without) and len(without[0]["weights"]) == 2


@pytest.mark.parametrize("least", [-0.2, 0.0, 0.1])
def test_documents_without_the_advantage_get_no_target(tmp_path: Path, least: float) -> None:
    chunks = made_up(5, 50, start=28, past_end=False, logits=False)
    every, all_counts, _ = fuse(tmp_path, chunks, FuseSettings(rule="avg_ce"), start=28)
    rows, counts, _ = fuse(tmp_path, chunks, FuseSettings(rule="avg_ce", min_advantage=least), start=28)
    scores = {c[0].document: nats_per_byte(c) for c in by_document(chunks)}
    held = opened = 0
    for chunk, row, whole in zip(chunks, rows, every, strict=True):
        own, *others = scores[chunk.document]
        same = ("inputs", "labels", "scores", "split", "domain", "doc_id")
        assert repr([row[n] for n in same]) == repr([whole[n] for n in same]), "the labels are learnt all the same"
        if np.isfinite(own) and own - min(others) >= least:
            assert repr(row) == repr(whole)
            opened += 1
        else:
            assert stored(row) == [{}] * len(row["labels"]) and not any(row["mass"]) and not any(row["weights"])
            assert row["winner"] == [-1] * len(row["labels"])
            held += sum(n > 0 for n in whole["counts"])
    assert held and opened and counts["held_back"] == held
    assert counts["served"] == all_counts["served"] - held and "held_back" not in all_counts


@pytest.mark.parametrize("settings", [s for s in SETTINGS if s.get("score") != "nats_per_token"])
def test_held_back_the_same_bytes_for_any_batch_size(tmp_path: Path, settings: dict[str, Any]) -> None:
    chunks = made_up(2, 40, start=28, past_end=False, logits=False)
    chosen = FuseSettings(**settings, min_advantage=0.05)
    files = [fuse(tmp_path, chunks, chosen, start=28, rows=rows)[2].read_bytes() for rows in (1, 3, 1000)]
    assert files[0] == files[1] == files[2]


def test_a_block_is_weighed_as_one(tmp_path: Path) -> None:
    chunks = made_up(3, 60, start=None, past_end=True, logits=True)
    settings = FuseSettings(granularity="block", block_tokens=16, rule="min_ce", min_advantage=0.0)
    rows, counts, _ = fuse(tmp_path, chunks, settings, past_end=True, logits=True)
    better = [row["scores"][0] - min(row["scores"][1:]) >= 0 for row in rows]
    assert any(better) and not all(better) and counts["held_back"]
    assert [any(row["counts"]) for row in rows] == better
