"""Residual rules by name: what becomes of the probability a sparse target left out. Imports no torch."""

# legend: N positions, K kept tokens

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from logitfuse.kernels.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Matched(NamedTuple):
    """What the student's probabilities are matched to: the kept tokens one by one, all others as one class."""

    kept_NK: Tensor  # float32
    rest_N: Tensor  # float32, matched to the student's whole mass outside the support
    in_bfloat16: bool = False  # the masses are bfloat16 numbers, and the published code's entropy of them is one too
    kept_alone: bool = False  # the kept tokens are the whole distribution: nothing is left for any other
    adds_up: bool = True  # the masses of a position are a distribution: their sum is 1


# A rule gets probs_NK and tail_N, zeros where there is no target. Options are its keyword-only arguments.
Residual = Callable[..., Matched]
RESIDUALS: Registry[Residual] = Registry("residual rule", "logitfuse.kernels.losses")


def leaves_room(residual: str) -> bool:
    """Whether a rule leaves the tokens that were not kept any probability."""
    import torch

    matched: Matched = RESIDUALS.get(residual)(torch.tensor([[0.5]]), torch.tensor([0.5]))
    return not matched.kept_alone
