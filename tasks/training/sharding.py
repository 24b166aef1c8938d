"""How a model spreads over processes: whole in each (DDP), or its parts among them (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.training.objective import COMPUTE, Objective


def spread(objective: Objective, accelerator: Accelerator, *, sharded: bool, dtype: str) -> nn.Module:
    """Return the objective ready for training by all processes; one process alone keeps it as it is."""
    if accelerator.num_processes == 1:
        return objective
    return _shard(objective, dtype) if sharded else accelerator.prepare_model(objective)


def _shard(objective: Objective, dtype: str) -> nn.Module:
    """Shard every decoder layer by itself and the rest, embeddings and head among it, as one.

    The whole objective, not the head alone, must be the outermost unit: the loss reads the head's weight without
    calling the head. Inputs are left as they are, because rounding target probabilities would change the loss.
    """
    policy = MixedPrecisionPolicy(param_dtype=COMPUTE[dtype], reduce_dtype=torch.float32, cast_forward_inputs=False)
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
