"""What a result of floating-point work depends on beside its key: kept in its record, never in the key."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitfuse.tasks.models.causal import CausalModel
    from logitfuse.tasks.training.settings import TrainSettings


def computed_on(model: CausalModel) -> dict[str, Any]:
    """Return the device, its name, the type of the weights and the threads with which a model computes here."""
    import torch

    return {
        "device": model.device.type,
        "hardware": hardware(model.device.type, 1),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def trained_on(settings: TrainSettings, device: str, processes: int, hosts: int, threads: int) -> dict[str, Any]:
    """Return what a training depends on: the same, processes over all hosts, and the plan of its batches."""
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    plan = ("tokens_per_step", "sequences_per_step", "micro_batch_tokens", "batching", "sequence_length", "attention")
    return {
        "device": "cuda" if on_gpu else "cpu",
        "hardware": hardware(device, processes),
        "dtype": settings.dtype,
        "threads": threads,
        "processes": processes * hosts,
        "batch_plan": {name: getattr(settings, name) for name in plan},
    }


def hardware(device: str, processes: int) -> str:
    """Say on what this machine computes."""
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    name = torch.cuda.get_device_name(0) if on_gpu else f"CPU, {os.cpu_count()} cores"
    return f"{processes} × {name}" if on_gpu else name
