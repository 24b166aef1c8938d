"""The recipe `paper` from text to fused blocks, against the literal references of the published code.

Small Llama and MPT models with random weights and the real Llama-2 and MPT tokenizers. What a model predicts is
compared with the model's own logits within an fp16 step; all that is made from it must then be equal to the bit.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from done_runs import done_run
from published import alignment, fusion, split, vocabulary_map
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from logitfuse.storage.shards import verified_path
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.models
LLAMA, MPT = "tiny-llama", "tiny-mpt"
THRESHOLD, BLOCK, K = 60, 48, 4
RECIPE = Path(__file__).parents[2] / "recipes" / "paper.yaml"
MARKERS = {LLAMA: "▁", MPT: "Ġ"}
VARIANTS: dict[str, dict[str, Any]] = {
    "mined-min_ce": {},
    "exact-avg_ce": {
        "map": {"strategy": "published", "options": {"nearest": False}},
        "fuse": {"rule": "avg_ce", "temperature": 2.0},
    },
}


def paper_in_small(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The shipped recipe with small models, blocks and documents."""
    content: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    small = paper_models.recipe_content(folder, folder / "models", documents=10)
    config = folder / "models" / MPT / "tokenizer_config.json"  # of the class that has its own rule for first tokens
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "GPTNeoXTokenizerFast"}))
    weights = load_file(folder / "models" / LLAMA / "model.safetensors")
    weights["lm_head.weight"] *= 1.75  # surer, so worse: now each of the two wins some blocks
    save_file(weights, folder / "models" / LLAMA / "model.safetensors", metadata={"format": "pt"})
    for name in ("target", "check", "evaluate", "execution"):
        content[name] = content.get(name, {}) | small[name]
    content["sources"] = [{**small["sources"][0], "start": "none"}]
    content["corpus"] |= small["corpus"] | {"published_split": THRESHOLD, "documents_per_shard": 1000}
    content["capture"] |= {"k": K, "tokens_per_batch": 1}  # one document a batch
    content["fuse"] |= {"block_tokens": BLOCK}
    content["train"] |= {"sequence_length": BLOCK, "max_steps": 2, "sequences_per_step": 4, "dtype": "fp32"}
    for name, values in changes.items():
        content[name] |= values
    return content


@pytest.fixture(scope="module", params=VARIANTS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("paper")
    content = paper_in_small(folder, VARIANTS[request.param])
    return done_run(content, ["encode", "check", "capture", "map", "align", "fuse", "train"])


def rows(run: Run, *unit: Any) -> list[dict[str, Any]]:
    return pq.read_table(verified_path(run.store, run.record(Unit(*unit)))).to_pylist()


def texts(run: Run) -> list[tuple[str, str, str]]:
    """Return (split, name, text) of every prepared document."""
    tables = [pq.read_table(verified_path(run.store, record)).to_pylist() for record in run.shards]
    return [(row["split"], row["doc_id"], row["text"]) for table in tables for row in table]


@cache
def tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def token_ids(run: Run, label: str, text: str) -> list[int]:
    tokenizer = tokenizer_of(run.teachers[label].home.folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if ids else []


def test_documents_are_the_published_pieces(run: Run) -> None:
    tokenizers = [tokenizer_of(run.teachers[label].home.folder) for label in (LLAMA, MPT)]
    corpus = [json.loads(line) for line in Path(run.recipe.corpus.source).read_text().splitlines()]
    found: dict[str, list[str]] = {}
    for _, name, text in texts(run):
        found.setdefault(name.split("#")[0], []).append(text)
    assert any(len(pieces) > 1 for pieces in found.values())
    for row in corpus:
        if row["id"] in found:  # equal documents of both splits stand once
            assert found[row["id"]] == split.split_text(row["text"], tokenizers, [False, False], THRESHOLD)


def test_capture_is_what_the_model_says_in_fp16(run: Run) -> None:
    for label in (LLAMA, MPT):
        model = AutoModelForCausalLM.from_pretrained(run.teachers[label].home.folder, dtype=torch.float32).eval()
        names = {name: text for _, name, text in texts(run)}
        for shard in run.shard_numbers:
            for row in rows(run, "capture", label, shard):
                ids = token_ids(run, label, names[row["doc_id"]])
                assert len(row["tail"]) == len(ids)  # a position after every token, the end token too
                if not ids:
                    continue
                with torch.no_grad():
                    logits_TV = model(torch.tensor([ids]), use_cache=False).logits[0].half().float()
                wanted_TK = logits_TV.sort(dim=-1, descending=True, stable=True).values[:, :K]
                found_TK = torch.tensor(row["logits"]).view(-1, K)
                assert torch.equal(found_TK, found_TK.half().float())
                torch.testing.assert_close(found_TK, wanted_TK, rtol=2**-10, atol=1e-4)
                gold_T = torch.nn.functional.cross_entropy(logits_TV[:-1], torch.tensor(ids[1:]), reduction="none")
                torch.testing.assert_close(-torch.tensor(row["gold_logprob"][:-1]), gold_T, rtol=2**-9, atol=2e-3)
                assert np.isnan(row["gold_logprob"][-1])


class Reference:
    """The published chain over what was captured: map, alignment, packing, choice."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.tokenizers = {label: tokenizer_of(run.teachers[label].home.folder) for label in (LLAMA, MPT)}
        vocabulary = sorted(self.tokenizers[LLAMA].get_vocab().items(), key=lambda entry: entry[1])
        self.target_ids = dict(vocabulary)
        self.nearest = run.recipe.map.options.get("nearest", True)
        self.source_pieces = {piece.replace("Ġ", "▁") for piece in self.tokenizers[MPT].get_vocab()}
        self._found: dict[str, str] = {}

    def __getitem__(self, piece: str) -> str:
        """A source piece in the target's spelling → the target piece; all of the vocabulary compared."""
        if piece not in self._found:
            choices = list(self.target_ids)
            distances = dict(zip(choices, cdist([piece], choices, scorer=Levenshtein.distance)[0], strict=True))
            found = vocabulary_map.mined(piece, self.target_ids, ("▁", "▁"), lambda _, choice: distances[choice])
            assert found is not None
            self._found[piece] = found
        return self._found[piece]

    def get(self, piece: str) -> str | None:
        return self[piece] if piece in self.source_pieces else None

    def documents(self, shard: int) -> dict[str, fusion.Document]:
        captured = {label: rows(self.run, "capture", label, shard) for label in (LLAMA, MPT)}
        names = {name: text for _, name, text in texts(self.run)}
        found = {}
        for llama, mpt in zip(captured[LLAMA], captured[MPT], strict=True):
            ids = {label: token_ids(self.run, label, names[llama["doc_id"]]) for label in (LLAMA, MPT)}
            if not ids[LLAMA]:
                continue
            metrics = [fusion.metric([-p for p in row["gold_logprob"][:-1]]) for row in (llama, mpt)]
            own = [(row_ids, logits) for row_ids, logits in zip(kept(llama, "ids"), kept(llama, "logits"), strict=True)]
            found[llama["doc_id"]] = fusion.Document(ids[LLAMA], metrics, [own, self.aligned(ids, mpt)])
        return found

    def aligned(self, ids: dict[str, list[int]], mpt: dict[str, Any]) -> list[fusion.Row]:
        pieces = {label: self.tokenizers[label].convert_ids_to_tokens(ids[label]) for label in (LLAMA, MPT)}
        names = [self.tokenizers[MPT].convert_ids_to_tokens(row) for row in kept(mpt, "ids")]
        listed = [
            [(logit, name) for logit, name in zip(logits, row, strict=True) if name is not None]
            for logits, row in zip(kept(mpt, "logits"), names, strict=True)
        ]
        entries = alignment.published_alignment(
            pieces[MPT], pieces[LLAMA], (MARKERS[MPT], MARKERS[LLAMA]), self.target_ids, listed,
            mapping=self if self.nearest else None, first_marker=True,  # type: ignore[arg-type]
        )  # fmt: skip
        return [(row_ids, logits) for logits, row_ids in entries]


def kept(row: dict[str, Any], column: str) -> list[list[Any]]:
    values = row[column]
    return [values[start : start + K] for start in range(0, len(values), K)]


def test_fused_blocks_are_the_published_ones_to_the_bit(run: Run) -> None:
    reference, settings = Reference(run), run.recipe.fuse
    chosen_ones, checked = set(), 0
    for shard in run.shard_numbers:
        documents = reference.documents(shard)
        blocks = fusion.packed(list(documents.values()), BLOCK)
        found = rows(run, "fuse", None, shard)
        assert len(found) == len(blocks)
        for row, block in zip(found, blocks, strict=True):
            assert row["inputs"] == block.tokens
            assert row["labels"] == [*block.tokens[1:], -100]
            np.testing.assert_allclose(row["scores"], block.metrics, rtol=1e-6)
            dense = fusion.distributions(block, 32000, settings.temperature)
            if settings.rule == "min_ce":
                wanted_TV, chosen = fusion.min_ce(dense, block.metrics, with_target=True)
                assert set(row["winner"]) == {chosen}
                chosen_ones.add(chosen)
            else:
                wanted_TV, _ = fusion.avg_ce(dense, block.metrics)
            assert torch.equal(stored(row), wanted_TV)
            checked += len(block.tokens)
    assert checked > 300
    assert chosen_ones == ({0, 1} if settings.rule == "min_ce" else set())


def stored(row: dict[str, Any]) -> torch.Tensor:
    """A fused row as dense bfloat16 [T, V]."""
    dense = torch.zeros(len(row["inputs"]), 32000, dtype=torch.bfloat16)
    start = 0
    for t, count in enumerate(row["counts"]):
        part = slice(start, start + count)
        dense[t, row["ids"][part]] = torch.tensor(row["logprobs"][part]).double().exp().bfloat16()
        start += count
    return dense


def test_training_takes_the_blocks_as_they_are(run: Run) -> None:
    record = run.record(Unit("train", "fused"))
    assert record.counts["steps"] == 2
