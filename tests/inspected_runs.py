"""A small run to look at: a target and two sources of other vocabularies, documents of several chunks."""

import json
import random
from pathlib import Path
from typing import Any

from tiny_models import WORDS, tiny_model

TO_FUSE = ("encode", "check", "capture", "map", "align", "fuse")
LONG = "doc-3"  # of several chunks


def write_corpus(path: Path, documents: int = 24) -> Path:
    """Write a corpus; one document is much longer than a chunk, one is empty."""
    rng = random.Random(0)
    lines = []
    for number in range(documents):
        count = {3: 220, 5: 0}.get(number, rng.randint(20, 60))
        text = ". ".join(" ".join(rng.choices(WORDS, k=6)) for _ in range(count // 6))
        lines.append(json.dumps({"id": f"doc-{number}", "text": text, "domain": ["prose", "code"][number % 2]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def recipe_content(root: Path, **changed: Any) -> dict[str, Any]:
    """Return a recipe whose models and corpus lie in a folder; `changed` replaces whole parts of it."""
    if not (root / "corpus.jsonl").exists():
        write_corpus(root / "corpus.jsonl")
        for seed, (name, size) in enumerate({"target": 300, "second": 330, "third": 360}.items(), 1):
            tiny_model(root / name, size, seed)
    return {
        "name": "looked-at",
        "target": {"model": str(root / "target"), "dtype": "float32"},
        "sources": [{"model": str(root / name), "dtype": "float32"} for name in ("second", "third")],
        "corpus": {
            "source": str(root / "corpus.jsonl"), "id_column": "id", "held_out_share": 0.2, "documents_per_shard": 8,
            "max_chunk_bytes": 400, "near_duplicate_overlap": None,
        },
        "check": {"nats_per_byte": None},  # random weights predict nothing
        "capture": {"k": 6, "tokens_per_batch": 512},
        "align": {"min_probability": 0.0025},
        "train": {"dtype": "fp32", "sequence_length": 128, "max_steps": 2},
        "execution": {"folder": str(root / "runs"), "min_free_gb": 0, "device": "cpu"},
        **changed,
    }  # fmt: skip
