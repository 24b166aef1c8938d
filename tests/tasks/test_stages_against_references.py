"""Every stage against a slow, obvious computation of the same thing, on the paper's models in small.

Real Llama-2 and MPT tokenizers, random weights. The references use dense distributions over the whole vocabulary and
loops over characters; they share no code with the stages.
"""

import itertools
import json
import unicodedata
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow.parquet as pq
import pytest
import torch
from done_runs import done_run
from transformers import AutoModelForCausalLM, AutoTokenizer

from logitfuse.storage.shards import verified_path
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.models
LLAMA, MPT = "tiny-llama", "tiny-mpt"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; one optimiser step sees all training text."""
    folder = tmp_path_factory.mktemp("reference")
    content = paper_models.recipe_content(folder, folder / "models")
    content["train"] |= {"tokens_per_step": 1_000_000, "control": True}
    return done_run(content)


def rows(run: Run, stage: str, source: str | None = None) -> list[dict[str, Any]]:
    units = [u for u in run.units(stage) if source in (None, u.source)] if stage != "prepare" else []
    records = run.shards if stage == "prepare" else [run.record(unit) for unit in units]
    return [row for record in records for row in pq.read_table(verified_path(run.store, record)).to_pylist()]


def encoded(run: Run, label: str) -> list[dict[str, Any]]:
    return rows(run, "encode", run.teachers[label].tokenizer_label)


@cache
def loaded(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits_of(run: Run, label: str, inputs: list[int]) -> np.ndarray:
    """Float32 logits of one text alone, as float64 [P, V]."""
    model = loaded(run.teachers[label].home.folder)
    with torch.no_grad():
        return model(torch.tensor([inputs]), use_cache=False).logits[0].double().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sequence(label: str, row: dict[str, Any]) -> list[int]:
    """The whole sequence a model reads, its labels included: start token, text, and the end of the document."""
    start, end = (1, 2) if label == LLAMA else (0, 0)
    return [start, *row["ids"], *([end] if row["last"] else [])] if row["ids"] else []


def byte_of(piece: str, label: str) -> bytes:
    if label == LLAMA:
        if piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    alphabet = {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
    return bytes(alphabet[c] for c in piece) if all(c in alphabet for c in piece) else piece.encode()


def test_prepare_loses_nothing(run: Run) -> None:
    source = [json.loads(line) for line in Path(run.recipe.corpus.source).read_text().splitlines()]
    texts: dict[str, str] = defaultdict(str)
    splits: dict[str, set] = defaultdict(set)
    for row in rows(run, "prepare"):
        assert len(row["text"].encode()) <= 400 and row["byte_start"] == len(texts[row["doc_id"]].encode())
        texts[row["doc_id"]] += row["text"]
        splits[row["doc_id"]].add(row["split"])
    dropped = sum(sum(record.counts["dropped"].values()) for record in run.shards)
    assert len(texts) + dropped == len(source)
    assert all(texts[d["id"]] == d["text"] for d in source if d["id"] in texts)
    assert all(len(s) == 1 for s in splits.values())
    assert {"train", "validation"} == set.union(*splits.values())


@pytest.mark.parametrize("label", [LLAMA, MPT])
def test_encode_ends_where_the_bytes_end(run: Run, label: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run.teachers[label].home.folder)
    certain = 0
    for row, text in zip(encoded(run, label), rows(run, "prepare"), strict=True):
        assert row["text_hash"] == text["text_hash"]
        raw = text["text"].encode()
        read = b"" if label == MPT else b"-"  # the dummy prefix is no text
        for piece, end in zip(tokenizer.convert_ids_to_tokens(row["ids"]), row["ends"], strict=True):
            read += byte_of(piece, label)
            if end >= 0:
                certain += 1
                wanted = raw[:end] if label == MPT else b"- " + raw[:end]
                assert unicodedata.normalize("NFC", read.decode(errors="replace")) == unicodedata.normalize(
                    "NFC", wanted.decode(errors="replace")
                )
        if row["ids"]:
            assert row["ends"][-1] == len(raw)
    assert certain > 0.98 * sum(len(row["ids"]) for row in encoded(run, label))


@pytest.mark.parametrize("label", [pytest.param(LLAMA, marks=pytest.mark.slow), MPT])
def test_capture_is_the_dense_softmax_of_each_chunk_alone(run: Run, label: str) -> None:
    k, positions = run.recipe.capture.k, 0
    for captured, text in zip(rows(run, "capture", label), encoded(run, label), strict=True):
        whole = sequence(label, text)
        count = max(len(whole) - 1, 0)
        assert (captured["first"], len(captured["tail"])) == (0, count)
        if not count:
            continue
        logp = np.log(softmax(logits_of(run, label, whole[:-1])))
        for p in range(count):
            order = np.lexsort((np.arange(logp.shape[1]), -logp[p]))
            part = slice(p * k, (p + 1) * k)
            np.testing.assert_allclose(captured["logprobs"][part], logp[p][order[:k]], rtol=1.1e-3, atol=2e-5)
            np.testing.assert_allclose(logp[p][captured["ids"][part]], logp[p][order[:k]], atol=2e-5)
            left_out = np.exp(logp[p][order[k:]]).sum()
            np.testing.assert_allclose(captured["tail"][p], left_out, rtol=2e-3, atol=2e-5)
            np.testing.assert_allclose(captured["gold_logprob"][p], logp[p][whole[p + 1]], rtol=1.1e-3, atol=2e-5)
            rank = int(np.flatnonzero(order == whole[p + 1])[0])
            assert abs(captured["gold_rank"][p] - min(rank, 32)) <= 1
        positions += count
    assert positions > 200


def dense_map(run: Run, label: str) -> dict[int, dict[int, float]]:
    record = run.record(Unit("map", run.teachers[label].tokenizer_label))
    table = pq.read_table(verified_path(run.store, record)).to_pylist()
    return {row["source_id"]: dict(zip(row["target_ids"], row["weights"], strict=True)) for row in table}


def test_the_targets_own_map_is_the_identity(run: Run) -> None:
    assert dense_map(run, LLAMA) == {i: {i: 1.0} for i in range(32000)}


def aligned_reference(run: Run, label: str) -> list[list[dict[int, float]]]:
    """For each chunk and target position the distribution as a dictionary, by comparing prefixes of the text."""
    mapping, k, out = dense_map(run, label), run.recipe.capture.k, []
    for captured, source, target in zip(
        rows(run, "capture", label), encoded(run, label), encoded(run, LLAMA), strict=True
    ):
        chunk = []
        read = [0, *target["ends"]][: len(sequence(LLAMA, target)[:-1])]
        source_read = [0, *source["ends"]][: len(captured["tail"])]
        for t, byte in enumerate(read):
            found: dict[int, float] = defaultdict(float)
            # Llama's first position expects a piece with a space that is not in the text; MPT's does not.
            blocked = label == MPT and t == 0
            serving = [p for p, b in enumerate(source_read) if b == byte and byte >= 0 and byte not in read[t + 1 :]]
            if label == LLAMA:  # one tokenizer on both sides: the same position
                serving = [t]
            if serving and not blocked:
                p = serving[-1]
                probs = np.exp(np.array(captured["logprobs"][p * k : (p + 1) * k], np.float64))
                probs /= probs.sum() + captured["tail"][p]
                for s, probability in zip(captured["ids"][p * k : (p + 1) * k], probs, strict=True):
                    for y, weight in mapping.get(s, {}).items():
                        found[y] += probability * weight
            chunk.append(dict(found))
        out.append(chunk)
    return out


def stored(row: dict[str, Any]) -> list[dict[int, float]]:
    borders = np.concatenate([[0], np.cumsum(row["counts"], dtype=int)])
    return [
        {row["ids"][j]: float(np.exp(row["logprobs"][j])) for j in range(a, b)} for a, b in itertools.pairwise(borders)
    ]


def assert_same(found: dict[int, float], wanted: dict[int, float]) -> None:
    assert found.keys() == wanted.keys()
    for token, probability in wanted.items():
        assert found[token] == pytest.approx(probability, rel=4e-3)


@pytest.mark.parametrize("label", [LLAMA, MPT])
def test_align_carries_every_distribution_to_the_same_prefix(run: Run, label: str) -> None:
    served = total = 0
    for row, chunk in zip(rows(run, "align", label), aligned_reference(run, label), strict=True):
        assert len(row["counts"]) == len(chunk)
        for t, (found, wanted) in enumerate(zip(stored(row), chunk, strict=True)):
            assert_same(found, wanted)
            assert row["mass"][t] == pytest.approx(sum(wanted.values()), abs=1e-3)
            assert (row["source_position"][t] >= 0) == bool(wanted)
            served, total = served + bool(wanted), total + 1
    assert served > (0.95 if label == LLAMA else 0.5) * total


def test_fuse_keeps_the_source_that_predicts_the_document_best(run: Run) -> None:
    nats: dict[str, dict[str, float]] = {LLAMA: defaultdict(float), MPT: defaultdict(float)}
    sizes: dict[str, int] = defaultdict(int)
    for label in nats:
        for captured, text in zip(rows(run, "capture", label), encoded(run, label), strict=True):
            nats[label][text["doc_id"]] -= sum(captured["gold_logprob"][: len(text["ids"])])
    for row in rows(run, "prepare"):
        sizes[row["doc_id"]] += len(row["text"].encode())
    aligned = {label: aligned_reference(run, label) for label in nats}
    for number, (row, target) in enumerate(zip(rows(run, "fuse"), encoded(run, LLAMA), strict=True)):
        whole = sequence(LLAMA, target)
        assert (row["inputs"], row["labels"]) == (whole[:-1], whole[1:])
        if not whole:
            continue
        document = row["doc_id"]
        scores = {label: nats[label][document] / sizes[document] for label in nats}
        np.testing.assert_allclose(row["scores"], list(scores.values()), rtol=1e-3)
        best = min(scores, key=lambda label: scores[label])
        assert row["weights"] == [float(label == best) for label in nats]
        for found, wanted in zip(stored(row), aligned[best][number], strict=True):
            assert_same(found, wanted)


def test_the_first_step_sees_the_dense_loss(run: Run) -> None:
    clm, fusion, positions, served = 0.0, 0.0, 0, 0
    for row in rows(run, "fuse"):
        if row["split"] != "train" or not row["inputs"]:
            continue
        q = softmax(logits_of(run, LLAMA, row["inputs"]))
        for t, wanted in enumerate(stored(row)):
            clm -= np.log(q[t, row["labels"][t]])
            positions += 1
            if wanted:
                served += 1
                outside = 1 - sum(q[t, y] for y in wanted)
                left_out = max(1 - row["mass"][t], 0.0)
                kept = sum(wanted.values())
                scale = (1 - left_out) / kept
                fusion -= sum(scale * p * np.log(q[t, y]) for y, p in wanted.items()) + left_out * np.log(outside)
    first = json.loads(next(iter(metrics_files(run, "fused"))).read_text().splitlines()[0])
    assert first["clm_loss"] == pytest.approx(clm / positions, rel=2e-4)
    assert first["fusion_loss"] == pytest.approx(fusion / served, rel=2e-3)
    assert first["served_share"] == pytest.approx(served / positions, rel=1e-6)
    lam = run.recipe.train.clm_weight
    assert first["loss"] <= max(first["clm_loss"], first["fusion_loss"]) + 1e-6
    unserved_clm = first["loss"] - (1 - lam) * fusion / positions  # what is left is CLM, whole where nothing serves
    assert lam * clm / positions - 1e-3 <= unserved_clm <= clm / positions + 1e-3


def metrics_files(run: Run, arm: str) -> list[Path]:
    return sorted((run.recipe.folder / "train" / arm).glob("metrics.*.jsonl"))


def test_evaluate_is_the_dense_cross_entropy_of_the_held_out_text(run: Run) -> None:
    for label in (LLAMA, MPT):
        texts = {(r["doc_id"], r["chunk"]): r for r in encoded(run, label)}
        for row in rows(run, "evaluate", label):
            whole = sequence(label, texts[row["doc_id"], row["chunk"]])
            if whole:
                logp = np.log(softmax(logits_of(run, label, whole[:-1])))
                wanted = [-logp[p, whole[p + 1]] for p in range(len(row["nats"]))]
                np.testing.assert_allclose(row["nats"], wanted, rtol=1e-4)
                assert row["ends"][-1] == row["bytes"]
    assert {r["split"] for r in rows(run, "evaluate", LLAMA)} == {"validation"}


def test_the_result_is_a_folder_that_loads_and_generates(run: Run) -> None:
    record = run.record(Unit("train", "fused"))
    folder = run.store.local(f"{record.place}/{record.files[0].name.split('/')[0]}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    written = model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert written.shape[1] > 3
    card = (folder / "README.md").read_text()
    assert run.target.home.fingerprint[:23] in card and "λ = 0.9" in card
    assert not [p for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".pkl"}]
