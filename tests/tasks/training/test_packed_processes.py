"""Packed rows under DDP and FSDP2, with gradient checkpointing, learn what one process learns from padded batches."""

import pytest
import torch
from safetensors.torch import load_file

from logitfuse.tasks.training.launch import run_training
from logitfuse.tasks.training.metrics import read_metrics

STEPS = {"epochs": 4, "max_steps": 6, "tokens_per_step": 150, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def one_thread_in_children(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def trained(config, processes: int) -> tuple[list[float], dict[str, torch.Tensor], list[str]]:
    said: list[str] = []
    run_training(config, processes=processes, device="cpu", log=said.append)
    return [line["loss"] for line in read_metrics(config.metrics)], load_file(config.out / "model.safetensors"), said


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_packed_in_two_processes_is_padded_in_one(run, sharded):
    padded, weights, said = trained(run("padded", batching="padded", **STEPS), 1)
    assert any("padded, as set" in line for line in said)
    config = run("packed", batching="packed", gradient_checkpointing=True, **STEPS)
    packed, others, said = trained(config.model_copy(update={"sharded": sharded}), 2)
    assert any("sequences are packed" in line for line in said)
    assert packed == pytest.approx(padded, rel=1e-4)
    for name, tensor in weights.items():  # stored in the model's bfloat16
        assert (others[name].float() - tensor.float()).norm() <= 1e-2 * tensor.float().norm(), name
