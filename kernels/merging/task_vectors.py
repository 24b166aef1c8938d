"""What interference-aware methods share: which elements of task vectors are large, agree, and how much they change."""

# legend: M models, N elements of a tensor

import math

import torch
from torch import Tensor


def largest(sizes: Tensor, share: float) -> Tensor:
    """Mark the largest elements of each row: this share of them, rounded up, and those as large as the least; bool."""
    elements = sizes.shape[-1]
    kept = min(elements, math.ceil(round(elements * share, 6)))
    if kept == elements:
        return torch.ones_like(sizes, dtype=torch.bool)
    least = sizes.kthvalue(elements - kept + 1, dim=-1, keepdim=True).values
    return sizes >= least


def agreeing(vectors_MN: Tensor, weights_M: Tensor) -> Tensor:
    """Mark the elements that have the sign of the weighted sum over the models, bool [M, N]; zeros agree with none."""
    elected_N = (weights_M @ vectors_MN).sign()
    return (vectors_MN.sign() == elected_N) & (vectors_MN != 0)


def shares_of_change(vectors_MN: Tensor, weights_M: Tensor) -> Tensor:
    """Return each model's share of the weighted squared change of a tensor, [M]; equal ones where nothing changed."""
    change_M = weights_M * vectors_MN.square().mean(dim=1)
    total = change_M.sum()
    return change_M / total if total > 0 else torch.full_like(change_M, 1 / len(change_M))
