"""The accelerate configurations that come with the package: accepted by accelerate, and starting our worker."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training import sharding
from logitfuse.tasks.training.launch import WORKER

FOLDER = Path(str(files("logitfuse.recipes").joinpath("accelerate")))
SHAPES = {  # hosts, processes, kind
    "one_gpu": (1, 1, "NO"),
    "eight_gpus": (1, 8, "MULTI_GPU"),
    "eight_gpus_sharded": (1, 8, "FSDP"),
    "two_hosts": (2, 16, "MULTI_GPU"),
    "two_hosts_sharded": (2, 16, "FSDP"),
}


def test_all_are_shipped():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(SHAPES)
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert "*.yaml" in project["tool"]["setuptools"]["package-data"]["logitfuse.recipes.accelerate"]


@pytest.mark.parametrize("name", SHAPES)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.num_machines, config.num_processes, config.distributed_type.value) == SHAPES[name]
    assert config.mixed_precision == "no" and not config.use_cpu
    assert config.fsdp_config.get("fsdp_version") == (2 if SHAPES[name][2] == "FSDP" else None)


def launch(name: str, config, *options: str) -> str:
    """Start a configuration as a user does, with two processes on this CPU in the place of its GPUs."""
    written = config.metrics.parent / "config.json"
    written.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / f"{name}.yaml")]
    done = subprocess.run(
        [*command, *options, "-m", WORKER, str(written)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.search(r"training 2 steps on \d+ sequences, (.*)", done.stdout)[1]


@pytest.mark.parametrize(
    ("name", "options", "spread"),
    [
        ("one_gpu", ["--cpu"], "1 process"),
        ("eight_gpus", ["--num_processes", "2"], "2 processes (DDP)"),
        ("eight_gpus_sharded", ["--num_processes", "2"], "2 processes (FSDP2)"),
    ],
)
@pytest.mark.slow
def test_it_starts_our_worker(run, name, options, spread):
    config = run(max_steps=2)
    assert launch(name, config, *options) == spread
    assert (config.out / "model.safetensors").is_file()


@pytest.mark.slow
def test_two_launches_of_one_file_are_one_run(run):
    config = run(max_steps=2)
    written = config.metrics.parent / "config.json"
    written.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "two_hosts.yaml")]
    command += ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", "29641"]
    hosts = [
        subprocess.Popen(
            [*command, "--machine_rank", str(rank), "-m", WORKER, str(written)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [host.communicate(timeout=300)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    assert "2 processes (DDP)" in said[0] and (config.out / "model.safetensors").is_file()


def test_another_engine_is_refused_in_words(run, monkeypatch):
    class Foreign:
        distributed_type = sharding.DistributedType.DEEPSPEED

    monkeypatch.setattr(sharding, "Accelerator", lambda **options: Foreign())
    with pytest.raises(BadInput, match=r"configured for DeepSpeed.*recipes/accelerate"):
        sharding.join_processes(run())
