"""Sparse soft targets, and what a residual rule makes of them."""

# legend: N positions, K kept tokens

from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.losses.residuals import RESIDUALS, Matched


class SparseTargets(NamedTuple):
    """The fused distribution of each position: kept tokens, their probabilities, and the mass left out.

    `probs_NK.sum(-1) + tail_N` is 1 at served positions. An entry with probability 0 is padding; the ids of one
    position are distinct. What stands at unserved positions is not read.
    """

    ids_NK: Tensor  # int64
    probs_NK: Tensor  # float32
    tail_N: Tensor  # float32
    served_N: Tensor  # bool

    def take(self, rows: Tensor) -> "SparseTargets":
        """Return the targets of some positions."""
        return SparseTargets(*(column[rows] for column in self))


def unserved(positions: int, device: torch.device | str = "cpu") -> SparseTargets:
    """Return targets that serve nothing, for a plain causal language-model loss."""
    return SparseTargets(
        torch.zeros((positions, 1), dtype=torch.int64, device=device),
        torch.zeros((positions, 1), device=device),
        torch.zeros(positions, device=device),
        torch.zeros(positions, dtype=torch.bool, device=device),
    )


def apply_residual(
    targets: SparseTargets, residual: str, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Matched]:
    """Apply a residual rule by name; return ids_NK (0 at padding), the support mask_NK and the matched masses.

    Unserved positions come back with an empty support and no mass, so that they need no branch later. `dtype`: of the
    masses.
    """
    support_NK = (targets.probs_NK > 0) & targets.served_N[:, None]
    ids_NK = targets.ids_NK.masked_fill(~support_NK, 0)
    probs_NK = targets.probs_NK.to(dtype).masked_fill(~support_NK, 0)
    # Rounding upstream may leave the mass a hair above 1; a negative remainder would push the student away.
    tail_N = targets.tail_N.to(dtype).clamp(min=0).masked_fill(~targets.served_N, 0)
    return ids_NK, support_NK, RESIDUALS.get(residual)(probs_NK, tail_N)
