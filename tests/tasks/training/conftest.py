"""A tiny random Llama, and fused shards of a language it can learn."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import write_llama
from tokenizers import Tokenizer, models, pre_tokenizers

from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.schemas import FUSE
from logitfuse.tasks.training.config import FusedShard, WorkerConfig
from logitfuse.tasks.training.settings import TrainSettings

VOCABULARY = 97
TINY = {
    "dtype": "fp32",
    "learning_rate": 1e-2,
    "sequence_length": 24,
    "tokens_per_step": 60,
    "micro_batch_tokens": 48,
    "loss_chunk": 16,
    "shuffle_rows": 8,
}


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from threads, and lose much where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A model folder whose weights are said to be bfloat16, with tied embeddings and a tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-model")
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    write_llama(
        folder, tokenizer, 0, unknown="<unk>", context=64, dtype=torch.bfloat16, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    return folder


def fused_row(number: int, length: int, split: str = "train") -> dict:
    """A document that counts in steps of 3, taught by a source that is right most of the time."""
    draw = np.random.default_rng(number)
    tokens = (draw.integers(3, VOCABULARY) + 3 * np.arange(length + 1)) % (VOCABULARY - 3) + 3
    counts = draw.integers(0, 4, length)
    ids, logprobs, mass = [], [], []
    for gold, count in zip(tokens[1:], counts, strict=True):
        others = [i for i in draw.permutation(VOCABULARY)[:4] if i != gold]
        probs = np.array([0.7, 0.15, 0.05])[:count]
        ids += [gold, *others][:count]
        logprobs += np.log(probs).tolist()
        mass.append(probs.sum())
    return {
        "doc_id": f"doc-{number}", "chunk": 0, "text_hash": bytes(16), "split": split, "domain": "counting",
        "inputs": tokens[:-1], "labels": tokens[1:], "counts": counts, "ids": ids, "logprobs": logprobs, "mass": mass,
        "weights": [1.0], "scores": [0.5],
    }  # fmt: skip


def write_shard(path: Path, rows: list[dict]) -> FusedShard:
    """Write a fused shard with small row groups."""
    table = pa.Table.from_pylist(rows, schema=FUSE.arrow)
    pq.write_table(table, path, row_group_size=3)
    return FusedShard(path=path, checksum=checksum_file(path))


@pytest.fixture(scope="session")
def shard_writer() -> SimpleNamespace:
    """Makes rows and shards for tests that need their own."""
    return SimpleNamespace(row=fused_row, write=write_shard)


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> tuple[FusedShard, ...]:
    """Two shards: 20 training documents of 1 to 40 tokens, and some held out."""
    folder = tmp_path_factory.mktemp("fused")
    rows = [fused_row(i, 1 + (7 * i) % 40, "held_out" if i % 6 == 5 else "train") for i in range(24)]
    return tuple(write_shard(folder / f"part-{n}.parquet", rows[12 * n : 12 * n + 12]) for n in range(2))


@pytest.fixture
def run(tmp_path, tiny_model, shards) -> Callable[..., WorkerConfig]:
    """Makes the configuration of a run with folders of its own."""

    def make(name: str = "run", every: int = 3, **settings) -> WorkerConfig:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return WorkerConfig(
            settings=TrainSettings(**{**TINY, **settings}),
            checkpoint_every_steps=every,
            model=tiny_model,
            shards=shards,
            out=folder / "model",
            checkpoints=folder / "checkpoints",
            metrics=folder / "metrics.jsonl",
            card="# A tiny model\n",
            key="k1",
        )

    return make
