"""How a model spreads over processes: whole in each (DDP), or its parts among them (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from logitfuse.storage.errors import BadInput, ModelRefused
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.objective import COMPUTE, Objective

# What accelerate may be told to use in the place of DDP and FSDP2, and which this training loop does not know.
FOREIGN = {DistributedType.DEEPSPEED: "DeepSpeed", DistributedType.MEGATRON_LM: "Megatron-LM"}


def join_processes(config: WorkerConfig) -> Accelerator:
    """Meet the other processes of the run, if there are any.

    Once they met, none waits longer than `peer_timeout_seconds` for another one. Raises `BadInput` if accelerate is
    configured for an engine that this loop does not drive.
    """
    # It would make transformers leave the weights out in all processes but one; here each cuts its part from them.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    accelerator = Accelerator(
        mixed_precision="no",  # the objective states its own
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(backend=None, timeout=timedelta(seconds=config.peer_timeout_seconds)),
        ],
    )
    if foreign := FOREIGN.get(accelerator.distributed_type):
        raise BadInput(
            f"accelerate is configured for {foreign}, but training spreads a model by DDP or FSDP2. Use one of the "
            "files in logitfuse/recipes/accelerate, or answer `accelerate config` with multi-GPU or FSDP."
        )
    return accelerator


def wants_sharding(config: WorkerConfig) -> bool:
    """Whether the run, or the accelerate configuration it was launched with, asks for FSDP2.

    accelerate's own flag is read from the environment, because on a CPU the library passes over it in silence.
    """
    return config.sharded or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def spread(objective: Objective, accelerator: Accelerator, *, sharded: bool, dtype: str) -> nn.Module:
    """Return the objective ready for training by all processes; one process alone keeps it as it is."""
    if accelerator.num_processes == 1:
        return objective
    if sharded:
        return _shard(objective, COMPUTE[dtype])
    # Not accelerator.prepare_model: launched with its FSDP settings it would wrap the model in its own way.
    gpu = [accelerator.device.index] if accelerator.device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=gpu, gradient_as_bucket_view=True)


def spread_of(objective: nn.Module, processes: int) -> str:
    """Say how a model is really spread, from its parameters and not from what was asked for."""
    if all(isinstance(parameter, DTensor) for parameter in objective.parameters()):
        return f"{processes} processes (FSDP2)"
    return f"{processes} processes (DDP)" if isinstance(objective, DistributedDataParallel) else "1 process"


def _shard(objective: Objective, compute: torch.dtype) -> nn.Module:
    """Shard every decoder layer by itself and the rest, embeddings and head among it, as one.

    The whole objective, not the head alone, must be the outermost unit: the loss reads the head's weight without
    calling the head. Inputs are left as they are, because rounding target probabilities would change the loss.
    """
    # Gradients are summed at least as precisely as float32.
    reduce = torch.promote_types(compute, torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=reduce, cast_forward_inputs=False)
    names = set(objective.model._no_split_modules or ())
    layers = [module for module in objective.model.modules() if type(module).__name__ in names]
    if not layers:
        raise ModelRefused(f"model {objective.model.config.model_type!r} does not name its layers: train it unsharded.")
    for layer in layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(objective, mp_policy=policy)
    return objective


@contextmanager
def gradients_shared(objective: nn.Module, share: bool) -> Iterator[None]:
    """Exchange gradients in this backward pass only if `share`: once a step, in its last batch, is enough."""
    if isinstance(objective, FSDPModule):
        objective.set_requires_gradient_sync(share)
        yield
    elif isinstance(objective, DistributedDataParallel) and not share:
        with objective.no_sync():
            yield
    else:
        yield


def peer_is_lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone or silent, and nothing about this one."""
    if not (dist.is_available() and dist.is_initialized()) or not isinstance(error, RuntimeError):
        return False
    signs = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe", "Timed out", "timeout")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def leave_processes() -> None:
    """Take leave of the other processes in good order; without it NCCL complains of what it still holds."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
