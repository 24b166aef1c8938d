"""The held-out sample: fixed, small, of all domains, and its bytes are those that its labels stand for."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.models.source import Source, read_source
from logitfuse.tasks.training.held_out_sample import MOST_SHARDS, read_sample, spread_out, write_sample

TEXT = "the quick brown fox jumps over a lazy dog while naïve Zürich cats sleep 日本 in 2023"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Source:
    """A byte-level tokenizer with a start token, and a model that is only looked at."""
    folder = tmp_path_factory.mktemp("target")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(fast), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, max_position_embeddings=64)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return read_source(ModelSettings(model=str(folder)))


def text(number: int) -> str:
    return " ".join(WORDS[(number * 7 + i) % len(WORDS)] for i in range(3 + number % 11))


def write_prepared(path: Path, numbers: range, domains: list[str]) -> Path:
    """Write what the sample reads of a prepared shard; every fourth chunk is held out."""
    rows = [
        {
            "split": "validation" if n % 4 == 0 else "train", "domain": domains[n % len(domains)],
            "text_hash": hashlib.sha256(text(n).encode()).digest()[:16], "text": text(n) if n % 8 else "",
        }
        for n in numbers
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    return path


@pytest.mark.parametrize("start", ["auto", "none"])
def test_bytes_are_those_of_the_labels(target, tmp_path, start):
    settings = target.home.settings.model_copy(update={"start": start})
    target = read_source(settings)
    shard = write_prepared(tmp_path / "a.parquet", range(200), ["code", "prose", "wiki"])
    count = write_sample([shard], target, tmp_path / "sample.json", 300, 20)
    rows = read_sample(tmp_path / "sample.json")
    assert {row.domain for row in rows} == {"code", "prose", "wiki"}
    assert count == sum(len(row.labels) for row in rows) <= 300
    for row in rows:
        assert len(row.inputs) == len(row.labels) <= 20
        said = target.tokenizer.backend_tokenizer.decode(row.labels.tolist())
        if "\ufffd" not in said:
            assert len(said.encode()) == row.bytes
        assert (row.inputs[1:] == row.labels[:-1]).all() and (row.inputs[0] == 0) == (start == "auto")


def test_the_sample_depends_on_the_text_alone(target, tmp_path):
    whole = write_prepared(tmp_path / "whole.parquet", range(100), ["code", "prose"])
    halves = [write_prepared(tmp_path / f"{n}.parquet", range(50 * n, 50 * n + 50), ["code", "prose"]) for n in (1, 0)]
    for name, shards in (("a", [whole]), ("b", halves), ("c", [whole])):
        write_sample(shards, target, tmp_path / name, 120, 64)
    written = [(tmp_path / name).read_bytes() for name in "abc"]
    assert written[0] == written[1] == written[2]


def test_no_held_out_text_is_no_sample(target, tmp_path):
    shard = write_prepared(tmp_path / "a.parquet", range(1, 4), ["code"])
    assert write_sample([shard], target, tmp_path / "sample.json", 100, 64) == 0
    assert read_sample(tmp_path / "sample.json") == []


def test_shards_are_spread_over_the_run():
    assert spread_out(0) == [] and spread_out(1) == [0] and spread_out(5) == [0, 1, 2, 3, 4]
    many = spread_out(1000)
    assert len(many) == MOST_SHARDS and many[0] == 0 and many[-1] == 999
