"""A recipe over two tiny models, with a corpus of any size and format."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import WORDS, tiny_model

from logitfuse.tasks.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("plan-models")
    return [tiny_model(folder / "first", 300, seed=1), tiny_model(folder / "second", 340, seed=2)]


def documents(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return documents, the later half three times as long: who reads the beginning alone is far off."""
    rng = random.Random(seed)
    sizes = [rng.randint(5, 60) * (3 if at >= count // 2 else 1) for at in range(count)]
    return [
        {"id": f"d{at}", "text": " ".join(rng.choices(WORDS, k=size)), "domain": "ab"[at % 2]}
        for at, size in enumerate(sizes)
    ]


def write_corpus(folder: Path, count: int, kind: str) -> Path:
    """Write a corpus of a format; return what `corpus.source` is."""
    rows = documents(count)
    if kind == "jsonl":
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder / "corpus.jsonl"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet", row_group_size=100)
        return folder / "corpus.parquet"
    (folder / "texts").mkdir()
    for row in rows:
        (folder / "texts" / f"{row['id']}.txt").write_text(row["text"])
    return folder / "texts"


@pytest.fixture
def recipe_for(tmp_path: Path, two_models: list[Path]) -> MakeRecipe:
    """Return a recipe over a corpus of so many documents; parts of it can be replaced."""

    def recipe(count: int = 40, kind: str = "jsonl", corpus: dict[str, Any] | None = None, **changed: Any) -> Recipe:
        content: dict[str, Any] = {
            "name": "planned",
            "target": {"model": str(two_models[0]), "dtype": "float32"},
            "sources": [{"model": str(two_models[1]), "dtype": "float32"}],
            "corpus": {
                "source": str(write_corpus(tmp_path, count, kind)), "documents_per_shard": 16, "held_out_share": 0.2,
                "max_chunk_bytes": 400, "near_duplicate_overlap": None, **(corpus or {}),
            },
            "check": {"nats_per_byte": None},
            "capture": {"k": 4, "tokens_per_batch": 512},
            "train": {
                "dtype": "fp32", "sequence_length": 128, "tokens_per_step": 1024, "micro_batch_tokens": 512,
                "control": True,
            },
            "execution": {"folder": str(tmp_path / "runs"), "min_free_gb": 0, "device": "cpu"},
        }  # fmt: skip
        return Recipe.model_validate(content | changed)

    return recipe
