"""However many processes train, and however the model is spread over them, they end with the same parameters."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

PROBE = Path(__file__).with_name("spread_probe.py")
STEPS = 20
TRAINED = {"max_steps": STEPS, "epochs": 6, "learning_rate": 1e-3}
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
KINDS = [(spread, dtype) for spread in ("DDP", "FSDP2") for dtype in TOLERANCE]


@pytest.fixture(scope="module")
def exact_models(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """The tiny model in folders that are exported in the dtype they are trained in."""
    folders = {}
    for dtype in TOLERANCE:
        folders[dtype] = tmp_path_factory.mktemp(dtype)
        shutil.copytree(tiny_model, folders[dtype], dirs_exist_ok=True)
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype)).save_pretrained(folders[dtype])
    return folders


def start(jobs: Path, processes: int) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(PROBE), str(jobs)]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_all(run, models, processes: int, kinds) -> dict:
    """Train each kind of run in one launch; return their configurations and its process."""
    configs = {}
    for spread, dtype in kinds:
        config = run(f"{processes}-{spread}-{dtype}", every=1000, **TRAINED)
        configs[spread, dtype] = config.model_copy(update={"model": models[dtype], "sharded": spread == "FSDP2"})
    jobs = run("jobs").metrics.with_name(f"jobs-{processes}.json")
    jobs.write_text(
        json.dumps(
            [{"config": c.model_dump(mode="json"), "float64": dtype == "float64"} for (_, dtype), c in configs.items()]
        )
    )
    return {"configs": configs, "process": start(jobs, processes)}


def facts(config, processes: int) -> list[dict]:
    return [json.loads((config.metrics.parent / f"facts-{rank}.json").read_text()) for rank in range(processes)]


def check_spread(config, spread: str, dtype: str, processes: int) -> None:
    """The processes were there, and held what such a spread gives each of them."""
    for seen in facts(config, processes):
        assert seen["world"] == processes
        assert seen["ddp"] == (spread == "DDP")
        assert seen["dtensors"] == (seen["parameters"] if spread == "FSDP2" else 0)
        assert seen["share"] == pytest.approx(1 / processes if spread == "FSDP2" else 1, rel=0.2)
        assert seen["dtypes"] == [f"torch.{dtype}"]


def largest_difference(left: dict, right: dict) -> float:
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def check_equal(run, models, processes: int) -> None:
    alone = train_all(run, models, 1, [("alone", dtype) for dtype in TOLERANCE])
    together = train_all(run, models, processes, KINDS)
    for started in (alone, together):
        said, _ = started["process"].communicate(timeout=500)
        assert started["process"].returncode == 0, said
    for (spread, dtype), config in together["configs"].items():
        check_spread(config, spread, dtype, processes)
        single = alone["configs"]["alone", dtype]
        wanted, found = (load_file(c.out / "model.safetensors") for c in (single, config))
        before = load_file(models[dtype] / "model.safetensors")
        assert {tensor.dtype for tensor in found.values()} == {getattr(torch, dtype)}
        moved, off = largest_difference(wanted, before), largest_difference(wanted, found)
        print(f"{processes} processes, {spread}, {dtype}: moved by {moved:.2g}, off by {off:.2g}")
        assert moved > 5e-3
        assert off <= TOLERANCE[dtype]
        lines = [json.loads(line) for line in config.metrics.read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))


def test_two_processes_end_with_the_parameters_of_one(run, exact_models):
    check_equal(run, exact_models, 2)


@pytest.mark.slow
def test_four_processes_end_with_the_parameters_of_one(run, exact_models):
    check_equal(run, exact_models, 4)
