"""Stage train on two hosts, and by a launcher of one's own: the stage publishes what comes of either."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_unit
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.train_hosts import is_follower
from logitfuse.tasks.training.worker import main
from logitfuse.tasks.unit import Unit

HERE = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture
def fused(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A recipe file of a run that is done up to the fused shards."""
    recipe = tiny_recipe()
    claim_folder(recipe)
    run = Run(recipe)
    do_prepare(run)
    for stage in ORDER[1 : ORDER.index("train")]:
        for unit in run.units(stage):
            do_unit(run, unit)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return file


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "logitfuse.flows.cli", *arguments]


@pytest.mark.slow
def test_two_hosts_make_one_model(fused: Path) -> None:
    settings = {"count": "2", "address": "127.0.0.1", "port": "29671"}
    options = [part for name, value in settings.items() for part in ("--set", f"execution.hosts.{name}={value}")]
    start = ["stage", "train", str(fused), "--plain", "--source", "fused", "--set", "execution.device=cpu", *options]
    hosts = [
        subprocess.Popen(
            command(*start, "--set", f"execution.hosts.rank={rank}"),
            env=os.environ | HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [host.communicate(timeout=400)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    run = Run(Recipe.model_validate(yaml.safe_load(fused.read_text())))
    record = run.record(Unit("train", "fused"))
    assert {Path(file.name).name for file in record.files} >= {"model.safetensors", "config.json", "README.md"}
    assert not list(run.store.local(record.place).glob("of-host-0*"))


@pytest.mark.slow
def test_a_model_trained_by_hand_is_published_by_the_stage(fused: Path, tmp_path: Path) -> None:
    file = tmp_path / "worker.json"
    done = subprocess.run(
        command("worker-config", str(fused), str(file)), env=os.environ | HERE, capture_output=True, text=True
    )
    assert done.returncode == 0 and f"logitfuse.tasks.training.worker {file}" in done.stdout, done
    assert main([str(file)]) == 0
    run = Run(Recipe.model_validate(yaml.safe_load(fused.read_text())))
    unit = Unit("train", "fused")
    by_hand = next(run.store.local("train/fused").glob("by-hand.*")) / "model.safetensors"
    steps = run.store.local("train/fused")
    before = next(steps.glob("metrics.*.jsonl")).read_text()
    record = do_unit(run, unit).record
    assert next(steps.glob("metrics.*.jsonl")).read_text() == before  # no step was done again
    published = run.store.local(f"{record.place}/{record.name}.{record.key}") / "model.safetensors"
    assert published.read_bytes() == by_hand.read_bytes()


def test_only_the_others_follow(tiny_recipe: Callable[..., Recipe]) -> None:
    hosts = {"count": 2, "address": "a"}
    assert not is_follower(Run(tiny_recipe()))
    for rank in range(2):
        recipe = tiny_recipe(execution={"hosts": {**hosts, "rank": rank}})
        assert is_follower(Run(recipe)) == (rank > 0)
