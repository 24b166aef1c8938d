"""The same bytes with 1, 2 and 4 workers, whatever the order of shards and sources; what may differ is in the record.

Two processes that share a run folder are held to the same bytes in tests/chaos.
"""

import random
from pathlib import Path
from typing import Any

import paper_models
import pytest
from done_runs import training_here
from run_contents import published

from logitfuse.tasks.execute import do_prepare, do_units, is_up_to_date
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.models
DATA_STAGES = ["encode", "capture", "map", "align", "fuse", "headroom"]
ALL = [*DATA_STAGES, "train", "evaluate"]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("determinism")
    (folder / "models").mkdir()
    made = paper_models.recipe_content(folder, folder / "models", documents=18)
    return made | {"train": made["train"] | {"max_steps": 3}}


def ordered(units: list[Unit], order: str) -> list[Unit]:
    if order == "backward":
        return units[::-1]
    return random.Random(order).sample(units, len(units)) if order != "forward" else units


def done(content: dict[str, Any], folder: Path, workers: int, order: str, stages: list[str]) -> Run:
    execution = content["execution"] | {"folder": str(folder), "workers": workers}
    run = Run(parse_recipe(content | {"execution": execution}, "test"))
    do_prepare(run)
    for stage in stages:
        list(do_units(run, ordered(run.units(stage), order)))
    assert is_up_to_date(run, ["prepare", *stages])
    return run


@pytest.fixture(scope="module")
def reference(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    with training_here():
        return done(content, tmp_path_factory.mktemp("once"), 1, "forward", ALL)


@pytest.mark.parametrize(("workers", "order", "stages"), [
    pytest.param(2, "backward", DATA_STAGES, marks=pytest.mark.slow), (4, "random", DATA_STAGES),
    (1, "another random", ALL),
])  # fmt: skip
def test_every_stage_gives_the_same_bytes(
    content: dict[str, Any], reference: Run, tmp_path: Path, workers: int, order: str, stages: list[str],
) -> None:  # fmt: skip
    with training_here():
        found = published(done(content, tmp_path, workers, order, stages).recipe.folder)
    wanted = published(reference.recipe.folder)
    for stage in ("prepare", *stages):
        of_stage = {name: checksum for name, checksum in wanted.items() if name.startswith(f"{stage}/")}
        assert of_stage and {n: c for n, c in found.items() if n.startswith(f"{stage}/")} == of_stage, stage


def test_records_name_what_bytes_of_floating_point_work_depend_on(reference: Run) -> None:
    for stage in ("capture", "train", "evaluate"):
        for unit in reference.units(stage):
            made = reference.record(unit).made
            assert (made["device"], made["threads"]) == ("cpu", 1) and "CPU" in made["hardware"], unit
            assert made["dtype"] in ("float32", "fp32") and made["versions"]["torch"], unit
            assert set(made["batch_plan"]) & {"tokens_per_batch", "micro_batch_tokens"}, unit
    assert reference.record(reference.units("capture")[0]).made["batch_plan"]["head_positions"] == 32
