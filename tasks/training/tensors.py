"""A model's and an optimiser's tensors by name, whole, wherever their parts lie (one process, DDP or FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file by name, each read when it is asked for: a file may exceed the memory."""

    def __init__(self, path: Path) -> None:
        """Open a file; it stays open as long as this lives."""
        self._file = safe_open(path, framework="pt")
        self._names = frozenset(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def model_tensors(model: nn.Module, *, frozen: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, whole tensor on the CPU) of all that training can change; a tied tensor comes once.

    Where some parameters are frozen, as under LoRA, they and the buffers come only with `frozen`. Every process must
    go through it.
    """
    for name, tensor in _held(model, frozen):
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


def _held(model: nn.Module, frozen: bool = False) -> Iterator[tuple[str, Tensor]]:
    frozen = frozen or all(p.requires_grad for p in model.parameters())
    yield from ((name, p) for name, p in model.named_parameters() if frozen or p.requires_grad)
    if not frozen:
        return
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().contiguous()


def _like(whole: Tensor, held: Tensor) -> Tensor:
    """Return a copy of a whole tensor, laid out as another one is."""
    whole = whole.to(held.device, held.dtype, copy=True)
    if not isinstance(held, DTensor):
        return whole
    # Every process has read the same file, so nothing needs to be sent.
    part = distribute_tensor(whole, held.device_mesh, held.placements, src_data_rank=None)
    return part.clone()  # a view would keep the whole tensor in memory
