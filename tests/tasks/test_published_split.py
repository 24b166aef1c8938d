"""The published split: by the longest tokenisation, lossy, each piece a document, each of the corpus's splits apart."""

import json
from pathlib import Path

import paper_models
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published.split import split_text
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from logitfuse.storage.shards import verified_path
from logitfuse.tasks.execute import do_prepare
from logitfuse.tasks.packaged.tokenizers import tokenizer_folder
from logitfuse.tasks.published_split import PublishedSplit, tidies
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run

pytestmark = pytest.mark.models
HARD = "naïve 👩‍👩‍👧 日本語のテキスト , said O 'Neil ! it 's 1,000 ."


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[PreTrainedTokenizerFast]:
    """Llama-2's, which does not tidy, and MPT's as on the hub, which does."""
    folder = tmp_path_factory.mktemp("mpt")
    AutoTokenizer.from_pretrained(tokenizer_folder("mpt")).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"clean_up_tokenization_spaces": True}))
    return [AutoTokenizer.from_pretrained(tokenizer_folder("llama-2")), AutoTokenizer.from_pretrained(folder)]


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([*paper_models.WORDS, *HARD.split(), "\n\n", "  "]), min_size=1, max_size=60),
    st.integers(1, 30),
)
def test_it_is_the_published_one(tokenizers, words, threshold):
    text = " ".join(words)
    for order in ([0, 1], [1, 0]):
        chosen = [tokenizers[i] for i in order]
        split = PublishedSplit(chosen, ["", ""], threshold)
        assert split(text) == split_text(text, chosen, [i == 1 for i in order], threshold)


def test_cuts_lose_characters_and_spaces(tokenizers):
    assert [tidies(tokenizer) for tokenizer in tokenizers] == [False, True]
    assert "�" in "".join(PublishedSplit(tokenizers, ["", ""], 2)("👩‍👩‍👧"))
    assert PublishedSplit(tokenizers[1:], [""], 7)("it 's 1 , 2 . one two three four")[0].startswith("it's 1, 2.")
    assert PublishedSplit(tokenizers, ["", ""], 100)(HARD) == [HARD]  # short texts stay as they are


def prepared(folder: Path, models: Path, threshold: int | None) -> list[list[dict]]:
    content = paper_models.recipe_content(folder, models)
    content["corpus"] |= {"published_split": threshold, "documents_per_shard": 5}
    run = Run(parse_recipe(content, "test"))
    do_prepare(run)
    assert [outcome.state for outcome in do_prepare(run)] == ["kept"] * len(run.shards)
    return [pq.read_table(verified_path(run.store, record)).to_pylist() for record in run.shards]


def test_pieces_are_documents_and_shards_hold_one_split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    shards = prepared(folder, folder / "models", 40)
    rows = [row for shard in shards for row in shard]
    assert any(row["doc_id"].endswith("#1") for row in rows)
    assert all(row["last"] and row["chunk"] == 0 for row in rows)
    assert len({row["doc_id"] for row in rows}) == len(rows)
    assert all(len({row["split"] for row in shard}) == 1 for shard in shards)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder("llama-2"))
    lengths = [len(tokenizer(row["text"], add_special_tokens=False)["input_ids"]) for row in rows]
    assert 40 <= max(lengths) < 60  # decoded and encoded again, a piece may take a few tokens more


@pytest.mark.slow
def test_other_thresholds_are_other_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    texts = {
        threshold: "".join(row["text"] for shard in prepared(folder, folder / "models", threshold) for row in shard)
        for threshold in (None, 40, 50)
    }
    assert len(set(texts.values())) == 3


def test_interleaved_splits_fill_their_shards(tmp_path_factory):
    """Held-out documents scattered through a corpus do not close the training shard before them."""
    folder = tmp_path_factory.mktemp("interleaved")
    content = paper_models.recipe_content(folder, folder / "models")
    lines = [json.dumps({"id": f"d{n}", "text": f"text number {n}"}) for n in range(200)]
    Path(content["corpus"]["source"]).write_text("\n".join(lines))
    content["corpus"] |= {"published_split": 40, "documents_per_shard": 50, "held_out_share": 0.2}
    run = Run(parse_recipe(content, "test"))
    do_prepare(run)
    tables = [pq.read_table(verified_path(run.store, record)) for record in run.shards]
    sizes = {split: [t.num_rows for t in tables if t["split"][0].as_py() == split] for split in ("train", "validation")}
    assert sum(map(sum, sizes.values())) == 200
    for found in sizes.values():
        assert all(size == 50 for size in found[:-1]) and len(found) == -(-sum(found) // 50)
