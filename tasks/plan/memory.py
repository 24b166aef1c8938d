"""What capture and training need of a device's memory, and what there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from logitfuse.tasks.capture_loop import CPU_HEAD_POSITIONS, GPU_LOGIT_BYTES
from logitfuse.tasks.plan.sizes import ModelSize

if TYPE_CHECKING:
    from logitfuse.tasks.capture_settings import CaptureSettings
    from logitfuse.tasks.execution import Execution
    from logitfuse.tasks.training.adapt_settings import AdaptSettings
    from logitfuse.tasks.training.settings import TrainSettings

PROCESS = 0.7e9  # bytes of Python, torch and a tokenizer (docs/memory.md)
FLOAT = {"bfloat16": 2, "bf16": 2, "float32": 4, "fp32": 4}
CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Memory:
    """What one process needs: `least` for weights, gradients and optimiser, without which nothing goes at all."""

    least: float
    beside: float  # activations and logits, estimated

    @property
    def needed(self) -> float:
        return self.least + self.beside

    def holding(self, held: float) -> Memory:
        """Return it with what was held in the place of what was computed."""
        least = min(self.least, held)
        return Memory(least, held - least)

    def times(self, processes: int) -> Memory:
        """Return what so many of them need together."""
        return Memory(self.least * processes, self.beside * processes)


def capture_memory(size: ModelSize, dtype: str, settings: CaptureSettings, *, on_gpu: bool) -> Memory:
    """Return what capturing with a model needs: its weights, its head in float32, a batch and a chunk of logits."""
    head = 4 * size.vocabulary * size.hidden
    layer = settings.tokens_per_batch * (8 * size.hidden + 3 * size.intermediate) * FLOAT[dtype]
    chunk = settings.head_positions or (0 if on_gpu else CPU_HEAD_POSITIONS)
    logits = 6 * chunk * size.vocabulary if chunk else 2 * GPU_LOGIT_BYTES
    return Memory(size.parameters * FLOAT[dtype] + head + (0 if on_gpu else PROCESS), layer + logits)


def train_memory(
    size: ModelSize, settings: TrainSettings | AdaptSettings, execution: Execution, devices: int, *, on_gpu: bool
) -> Memory:
    """Return what one training process needs.

    Weights, gradients and AdamW's two averages are float32 (16 bytes a trained weight), frozen ones are in the type
    that it computes in; sharded, each of `devices` processes holds its part. bf16 keeps a copy of the weights for
    a step. Activations: about 20 times the hidden and 6 times the inner width a token and layer, with gradient
    checkpointing 2 and one layer.
    """
    trained, computing = float(size.parameters), FLOAT[settings.dtype]
    frozen = float(size.embedding) if settings.freeze_embeddings else 0.0
    if settings.lora:
        frozen = float(size.parameters)
        trained = adapters(size, settings)
    else:
        trained -= frozen
    states = 16 * trained + computing * frozen
    if execution.sharded:
        states /= max(1, devices)
    tokens = settings.micro_batch_tokens
    one = tokens * (20 * size.hidden + 6 * size.intermediate) * computing
    layers = one + size.layers * tokens * 2 * size.hidden * computing if settings.gradient_checkpointing else (
        size.layers * one
    )  # fmt: skip
    copies = computing * (trained + frozen) * (computing < 4) / (max(1, devices) if execution.sharded else 1)
    logits = settings.loss_chunk * size.vocabulary * 8
    head = 4 * size.vocabulary * size.hidden  # its gradient is summed in float32
    return Memory(states + (0 if on_gpu else PROCESS), layers + copies + logits + head)


def adapters(size: ModelSize, settings: TrainSettings | AdaptSettings) -> float:
    """Return about how many weights LoRA trains: two thin matrices beside each of a layer's seven."""
    assert settings.lora is not None
    return settings.lora.rank * size.layers * 7.0 * (size.hidden + size.intermediate)


def memory_here(device: str) -> float:
    """Return the bytes of this machine's memory, or of the smallest of its GPUs where it computes on them."""
    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            return float(
                min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
            )
    return float(min(psutil.virtual_memory().total, _container()))


def _container() -> float:
    """Return what a container may use, infinite without a limit."""
    try:
        return float(CGROUP.read_text())
    except (OSError, ValueError):  # "max", or no such file
        return float("inf")
