"""A run that was stopped goes on with another number of processes, and says so."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from logitfuse.tasks.training.launch import run_training
from logitfuse.tasks.training.metrics import read_metrics

STEPS = 12
SETTINGS = {"max_steps": STEPS, "epochs": 40, "tokens_per_step": 800, "micro_batch_tokens": 48, "learning_rate": 1e-3}


class Cancelled(Exception):
    """What stops a run."""


@pytest.fixture(scope="module")
def exact_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model in a folder that is exported in float32."""
    folder = tmp_path_factory.mktemp("float32")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).save_pretrained(folder)
    return folder


def train(config, processes: int, *, until_saved: bool = False) -> list[str]:
    said: list[str] = []

    def log(line: str) -> None:
        said.append(line)
        if until_saved and line.startswith("saved step"):
            raise Cancelled

    if until_saved:
        with pytest.raises(Cancelled):
            run_training(config, processes=processes, device="cpu", log=log)
    else:
        run_training(config, processes=processes, device="cpu", log=log)
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "sharded", "how"),
    [(1, 2, False, "2 processes (DDP)"), (2, 1, False, "1 process"), (2, 4, True, "4 processes (FSDP2)")],
)
def test_resumed_on_another_number_of_processes(run, exact_model, monkeypatch, before, after, sharded, how):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone, moved = (run(name, **SETTINGS).model_copy(update={"model": exact_model}) for name in ("alone", "moved"))
    moved = moved.model_copy(update={"sharded": sharded})
    train(alone, 1)
    train(moved, before, until_saved=True)
    assert not moved.out.exists()
    said = "\n".join(train(moved, after))
    assert f"of {STEPS}, {how}; the checkpoint was written by {before}." in said
    assert "will not be the undisturbed one to the bit" in said
    assert [line["step"] for line in read_metrics(moved.metrics)] == list(range(1, STEPS + 1))
    left, right = (load_file(config.out / "model.safetensors") for config in (alone, moved))
    off = max((left[name] - right[name]).abs().max().item() for name in left)
    print(f"{before} → {after} processes, sharded {sharded}: off by {off:.2g}")
    assert off <= 1e-5
