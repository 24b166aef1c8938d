"""How much each position's two losses count: L = Σ_t [ clm_t CE(label_t) + fusion_t D(P_t, Q_t) ]."""

# legend: B sequences, T positions, N = B·T

from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.positions import NO_LABEL


class PositionWeights(NamedTuple):
    """Weights of each position's losses, the normaliser already in them; 0 where a loss does not count."""

    clm_N: Tensor  # float32, of the label's loss
    fusion_N: Tensor  # float32, of the fused target's loss


def by_position(labels_N: Tensor, served_N: Tensor, *, clm_weight: float, normaliser: float) -> PositionWeights:
    """Give every labelled position weight 1/normaliser: λ and 1-λ where a fused target serves it, else the label alone.

    normaliser: the labelled positions of the whole optimiser step over all processes.
    """
    labelled_N = labels_N != NO_LABEL
    clm_N = torch.where(served_N, clm_weight, 1.0).float()
    weight_N = labelled_N.float() / normaliser
    return PositionWeights(clm_N * weight_N, (1 - clm_N) * weight_N)


def by_sequence(
    labels_BT: Tensor, mask_BT: Tensor, served_N: Tensor, *, clm_weight: float, normaliser: float
) -> PositionWeights:
    """Give every sequence weight 1/normaliser, as FuseLLM's published code does with one sequence a batch.

    Within a sequence: λ times the mean over its labels, 1-λ times the mean of the fused loss over all its positions,
    the last one, which has no label, among them. normaliser: the sequences of the whole optimiser step.
    """
    labelled_BT = (labels_BT != NO_LABEL).float()
    positions_BT = mask_BT.float()
    clm_BT = clm_weight * labelled_BT / labelled_BT.sum(-1, keepdim=True).clamp(min=1)
    fusion_BT = (1 - clm_weight) * positions_BT / positions_BT.sum(-1, keepdim=True).clamp(min=1)
    return PositionWeights(clm_BT.flatten() / normaliser, fusion_BT.flatten() * served_N / normaliser)
