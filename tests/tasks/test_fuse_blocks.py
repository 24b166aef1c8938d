"""Packed blocks are the published packing and choice, and the same bytes for any batch size."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_shards import END, LABELS, Chunk, V, by_document, fuse, made_up, stored
from published import fusion as published

from logitfuse.tasks.fuse import FuseSettings


@pytest.mark.parametrize("rule", ["min_ce", "avg_ce", "bayes"])
def test_blocks_are_the_same_bytes_for_any_batch_size(tmp_path: Path, rule: str) -> None:
    chunks = made_up(3, 60, start=None, past_end=True, logits=True)
    settings = FuseSettings(granularity="block", block_tokens=16, rule=rule, score="nats_per_token")
    files = [fuse(tmp_path, chunks, settings, past_end=True, logits=True, rows=n)[2].read_bytes() for n in (1, 3, 64)]
    assert files[0] == files[1] == files[2]


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


def test_a_block_is_weighed_as_one(tmp_path: Path) -> None:
    chunks = made_up(3, 60, start=None, past_end=True, logits=True)
    settings = FuseSettings(granularity="block", block_tokens=16, rule="min_ce", min_advantage=0.0)
    rows, counts, _ = fuse(tmp_path, chunks, settings, past_end=True, logits=True)
    better = [row["scores"][0] - min(row["scores"][1:]) >= 0 for row in rows]
    assert any(better) and not all(better) and counts["held_back"]
    assert [any(row["counts"]) for row in rows] == better
