"""Two finished runs to be copied and damaged: one as usual, one as the published code makes it."""

from pathlib import Path
from typing import Any

import paper_models
import pytest
from damaged_runs import LLAMA, MPT, copied
from done_runs import done_run

from logitfuse.tasks.execute import do_units
from logitfuse.tasks.unit import Unit

PAPER = {
    "encode": {"special_tokens": "special"},
    "capture": {"k": 4, "raw_logits": True, "past_end": True, "max_length": 60},
    "map": {"strategy": "exact"},
    "align": {"strategy": "dtw", "fallback": "current_token", "collision": "first", "values": "logits"},
    "fuse": {
        "rule": "avg_ce", "options": {"precision": "bf16"}, "granularity": "block", "block_tokens": 48,
        "score": "nats_per_token",
    },
}  # fmt: skip


def make(content: dict[str, Any]) -> dict[str, Any]:
    """Do all stages that need no training; return the recipe."""
    run = done_run(content, ["encode", "check", "adapt", "capture", "map", "align", "fuse", "headroom"])
    list(do_units(run, [Unit("evaluate", LLAMA), Unit("evaluate", MPT)]))
    return content


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("healthy")
    content = paper_models.recipe_content(folder, folder / "models", documents=48)
    content["corpus"] |= {"documents_per_shard": 24}
    return make(content | {"fuse": {"rule": "weighted"}})


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("published")
    content = paper_models.recipe_content(folder, folder / "models", documents=12) | PAPER
    content["target"] |= {"start": "none"}
    content["sources"][0] |= {"start": "none"}
    content["corpus"] |= {"published_split": 60}
    return make(content)


@pytest.fixture
def content(healthy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return copied(healthy, tmp_path)
