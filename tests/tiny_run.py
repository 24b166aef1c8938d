"""The smallest run that has every stage: two models of a few thousand weights, twelve documents, two shards."""

import json
import random
from pathlib import Path
from typing import Any

import yaml
from tiny_models import WORDS, tiny_model


def write_tiny_run(root: Path) -> dict[str, Any]:
    """Write models, corpus and recipe.yaml into a folder; return the recipe's content. Its run will be runs/tiny."""
    first, second = (tiny_model(root / name, size, seed) for name, size, seed in (("a", 300, 1), ("b", 320, 2)))
    content = {
        "name": "tiny",
        "target": {"model": str(first), "dtype": "float32"},
        "sources": [{"model": str(second), "dtype": "float32"}],
        "corpus": {"source": str(_corpus(root / "corpus.jsonl")), "documents_per_shard": 6, "held_out_share": 0.2},
        "check": {"nats_per_byte": None},
        "capture": {"k": 4},
        "train": {"dtype": "fp32", "sequence_length": 128, "max_steps": 1},
        "execution": {"folder": str(root / "runs"), "min_free_gb": 0, "device": "cpu"},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(content))
    return content


def _corpus(path: Path) -> Path:
    rng = random.Random(0)
    lines = [{"id": f"doc-{n}", "text": " ".join(rng.choices(WORDS, k=rng.randint(3, 12)))} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
