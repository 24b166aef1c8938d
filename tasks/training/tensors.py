"""A model's and an optimiser's tensors by name, whole, wherever their parts lie (one process, DDP or FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


def model_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, whole tensor on the CPU); a tied tensor comes once. Every process must go through it."""
    for name, tensor in _held(model):
        yield name, _whole(tensor)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Yield AdamW's (parameter/moment, whole tensor on the CPU). Every process must go through it."""
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        for moment in MOMENTS:
            if moment in state:
                yield f"{name}/{moment}", _whole(state[moment])


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put whole tensors back; every name must be there."""
    for name, tensor in _held(model):
        tensor.copy_(_like(tensors[name], tensor))


@torch.no_grad()
def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], steps: int
) -> None:
    """Put AdamW's state after `steps` steps back; parameters that never had a gradient have none."""
    for name, parameter in model.named_parameters():
        if f"{name}/{MOMENTS[0]}" not in tensors:
            continue
        state = {moment: _like(tensors[f"{name}/{moment}"], parameter) for moment in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(steps), device=parameter.device), **state}


def _held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().contiguous()


def _like(whole: Tensor, held: Tensor) -> Tensor:
    """Return a copy of a whole tensor, laid out as another one is."""
    whole = whole.to(held.device, held.dtype, copy=True)
    return distribute_tensor(whole, held.device_mesh, held.placements) if isinstance(held, DTensor) else whole
