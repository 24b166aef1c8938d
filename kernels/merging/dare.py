"""DARE: drop elements of the task vectors at random and rescale what is left (Yu et al., 2024), then average."""

# legend: M models, N elements of a tensor

import hashlib
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from logitfuse.kernels.merging import MERGES


@MERGES("dare")
def dare(
    models_MN: Tensor,
    base_N: Tensor,
    weights_M: Tensor,
    name: str,
    *,
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    scale: Annotated[float, Field(ge=0)] = 1.0,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Tensor:
    """Return base + scale · weighted mean of the dropped task vectors / (1 - drop), float32 [N].

    Each element of each model is dropped with probability `drop`; what is drawn depends on the seed and the tensor's
    name alone.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    kept_MN = torch.rand(models_MN.shape, generator=generator) >= drop
    vectors_MN = (models_MN - base_N) * kept_MN / (1 - drop)
    return base_N + scale * (weights_M / weights_M.sum() @ vectors_MN)
