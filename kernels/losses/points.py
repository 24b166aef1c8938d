"""The few tokens of each position that are not like all others: the label and the kept tokens."""

# legend: M positions, C positions of a chunk, K kept tokens, P = 1 + K points, the label first

from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.losses.residuals import Matched
from logitfuse.kernels.losses.targets import SparseTargets, apply_residual
from logitfuse.kernels.losses.weights import PositionWeights
from logitfuse.kernels.positions import NO_LABEL


class ChunkTargets(NamedTuple):
    """Points, matched masses and weights of a chunk's positions.

    A point that is padding repeats the label's id, and everything written there is the same as what the label's own
    point gets: so the order of writing is no matter. Without a label, id 0 stands for it, with weight 0.
    """

    ids_CP: Tensor  # int64
    taken_CP: Tensor  # bool, the id is in the support
    support_CK: Tensor  # bool
    gold_CK: Tensor  # bool, the kept token is the label
    kept_CK: Tensor  # masses, float32 or float64
    rest_C: Tensor
    labelled_C: Tensor  # bool
    served_C: Tensor  # bool
    clm_C: Tensor  # weight of the label's loss, 0 without a label
    fusion_C: Tensor  # weight of the fused target's loss, 0 without one


class Positions(NamedTuple):
    """All positions that count, and what is the same for them."""

    targets: ChunkTargets  # of M positions
    rule: Matched  # its masses are in `targets`; what else the residual rule says

    def chunk(self, part: slice) -> tuple[ChunkTargets, Matched]:
        """Return what belongs to some positions."""
        targets = ChunkTargets(*(column[part] for column in self.targets))
        return targets, self.rule._replace(kept_NK=targets.kept_CK, rest_N=targets.rest_C)


def positions(
    labels_M: Tensor, targets: SparseTargets, weights: PositionWeights, residual: str, dtype: torch.dtype
) -> Positions:
    """Prepare positions. `dtype`: what masses and weights are computed in."""
    ids_MK, support_MK, matched = apply_residual(targets, residual, dtype)
    labelled_M = labels_M != NO_LABEL
    gold_M1 = labels_M.clamp(min=0)[:, None]
    gold_MK = (ids_MK == gold_M1) & support_MK
    gold_kept_M1 = gold_MK.any(-1, keepdim=True)
    found = ChunkTargets(
        torch.cat([gold_M1, torch.where(support_MK, ids_MK, gold_M1)], dim=1),
        torch.cat([gold_kept_M1, support_MK | gold_kept_M1], dim=1),
        support_MK,
        gold_MK,
        matched.kept_NK,
        matched.rest_N,
        labelled_M,
        targets.served_N,
        weights.clm_N.to(dtype).masked_fill(~labelled_M, 0),
        weights.fusion_N.to(dtype) * targets.served_N,
    )
    return Positions(found, matched)
