"""Which code visits the logits: compiled for the CPU or the GPU where it can be, plain torch everywhere else."""

import importlib.util
from functools import cache
from typing import Literal

import torch

from logitfuse.kernels.losses.passes import Passes, TorchPasses

Backend = Literal["auto", "torch", "numba", "triton"]


class BackendMissing(ValueError):
    """The backend that was asked for cannot run here."""


def passes_for(backend: Backend, device: torch.device, dtype: torch.dtype) -> Passes:
    """Return the visits for logits of a dtype on a device; `auto` takes the fastest. Raises `BackendMissing`.

    They give the same to the rounding of float32. float64 is for torch alone.
    """
    if backend == "torch" or dtype not in (torch.float32, torch.bfloat16):
        return TorchPasses()
    if backend == "auto":
        backend = "numba" if device.type == "cpu" else "triton" if device.type == "cuda" and _has_triton() else "torch"
    if backend == "numba":
        return _numba(device)
    return _triton() if backend == "triton" else TorchPasses()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _numba(device: torch.device) -> Passes:
    from logitfuse.kernels.losses.numba_passes import NumbaPasses

    if device.type != "cpu":
        raise BackendMissing(f"the loss backend 'numba' runs on a CPU, and this is {device}: take 'auto' or 'torch'.")
    return NumbaPasses()


def _triton() -> Passes:
    from logitfuse.kernels.losses.triton_epilogue import AVAILABLE, TritonPasses

    if not AVAILABLE:
        raise BackendMissing(
            "the loss backend 'triton' needs Triton, which comes with torch's CUDA builds: take 'auto' or 'torch'."
        )
    return TritonPasses()
