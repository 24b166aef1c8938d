"""Two tiny models that need nothing from outside, a short corpus, and one Prefect server for all tests of flows."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_models import WORDS, tiny_model

from logitfuse.flows.prefect_settings import quiet_defaults
from logitfuse.tasks.recipe import Recipe

quiet_defaults()  # before any test imports Prefect


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary Prefect server with its own database, for tests that run flows in this process."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two Llamas with random weights, whose vocabularies differ."""
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / "first", 300, seed=1), tiny_model(folder / "second", 340, seed=2)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Thirty short documents."""
    rng = random.Random(0)
    lines = (
        json.dumps({"id": f"doc-{number}", "text": " ".join(rng.choices(WORDS, k=rng.randint(3, 30)))})
        for number in range(30)
    )
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def tiny_recipe(tmp_path: Path, corpus: Path, tiny_models: list[Path]) -> Callable[..., Recipe]:
    """Return a recipe over the tiny models: three shards, a few training steps; parts of it can be replaced."""
    first, second = tiny_models

    def recipe(**changed: object) -> Recipe:
        content: dict[str, object] = {
            "name": "tiny",
            "target": {"model": str(first), "dtype": "float32"},
            "sources": [{"model": str(second), "dtype": "float32"}],
            "corpus": {"source": str(corpus), "documents_per_shard": 10, "held_out_share": 0.2},
            "check": {"nats_per_byte": None},  # random weights predict nothing
            "capture": {"k": 4, "tokens_per_batch": 512},
            "train": {"learning_rate": 1e-3, "dtype": "fp32", "sequence_length": 128, "max_steps": 2},
            "execution": {"folder": str(tmp_path / "runs"), "min_free_gb": 0, "device": "cpu"},
        }
        return Recipe.model_validate(content | changed)

    return recipe
