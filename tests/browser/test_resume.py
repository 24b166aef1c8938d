"""A stage that fails: why, the repair, that stage alone, and the pipeline's Retry."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_pages import Pages
from prefect_run_page import RunPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]


def damaged(project: Path) -> Path:
    """Overwrite the end of one shard of stage align."""
    shard = sorted((project / "runs" / "tiny" / "align" / "second").glob("part-00001.*.parquet"))[-1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100] + bytes(100))
    return shard


def test_one_stage_is_resumed_and_the_pipeline_goes_on(
    finished: RunPage, pages: Pages, project: Path, values: dict[str, Any], files: Callable[[str], dict[Path, int]]
) -> None:
    shard = damaged(project)
    before = files("capture"), files("encode")
    values = values | {"recipe.fuse.granularity": "chunk"}
    pipeline = pages.run("pipeline", values | {"stop_after": "headroom"}).wait("Failed")
    pipeline.picture("stage-failed")
    said = pipeline.said()
    assert shard.name in said and "logitfuse stage align RECIPE --source second --shards 1 --redo" in said
    assert "Traceback" not in said
    fused = files("fuse")

    repair = pages.run("align", values | {"source": "second", "shards": "1", "redo": True}, picture="form-align")
    repair.wait("Completed").says("align: 1 done")
    alone = pages.run("fuse", values).wait("Completed")
    alone.says("fuse: 1 done, 2 kept")
    alone.picture("stage-resumed")
    made = files("fuse")
    assert all(made[path] == fused[path] for path in fused)

    pipeline.open()
    pipeline.press("Retry", confirmed_by="Retry")
    pipeline.wait("Completed", but_not_yet=("Failed",)).says("ran headroom; 8 stages were up to date")
    pipeline.picture("pipeline-retried")
    assert (files("capture"), files("encode")) == before and files("fuse") == made
