"""The whole stage on made-up shards against plain loops, and the same bytes for any batch size."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_shards import (
    END,
    LABELS,
    SETTINGS,
    Chunk,
    by_document,
    fuse,
    made_up,
    nats_per_byte,
    shards,
    stored,
)

from logitfuse.kernels.positions import consumed_bytes
from logitfuse.kernels.scores import Scored
from logitfuse.storage.errors import ShardMismatch
from logitfuse.tasks.fuse import FuseSettings
from logitfuse.tasks.fuse_documents import Reading, read_documents


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


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.get("rule", "min_ce"))
def test_the_same_bytes_for_any_batch_size(tmp_path: Path, settings: dict) -> None:
    chunks = made_up(2, 60, start=28, past_end=False, logits=False)
    whole = fuse(tmp_path, chunks, FuseSettings(**settings), start=28, rows=1000)[2].read_bytes()
    for rows in (1, 3, 64):
        assert fuse(tmp_path, chunks, FuseSettings(**settings), start=28, rows=rows)[2].read_bytes() == whole


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


def between(scored: Scored, low: int, high: int) -> float:
    first = min(i for i, b in enumerate(scored.begins) if b == low)
    return float(scored.nats[first : max(i for i, b in enumerate(scored.ends) if b == high) + 1].sum()) / (high - low)


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
