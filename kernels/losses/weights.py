"""How much each position's two losses count: L = Σ_t [ clm_t CE(label_t) + fusion_t D(P_t, Q_t) ]."""

# legend: B sequences, T positions, N = B·T, S sources

from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.positions import NO_LABEL


class PositionWeights(NamedTuple):
    """Weights of each position's losses, the normaliser already in them; 0 where a loss does not count."""

    clm_N: Tensor  # float64, of the label's loss
    fusion_N: Tensor  # float64, of the fused target's loss


def by_position(
    labels_N: Tensor, served_N: Tensor, *, clm_weight: float | Tensor, normaliser: float
) -> PositionWeights:
    """Give every labelled position weight 1/normaliser: λ and 1-λ where a fused target serves it, else the label alone.

    clm_weight: λ, for all positions or of each one [N]. normaliser: the labelled positions of the whole optimiser step
    over all processes.
    """
    labelled_N = labels_N != NO_LABEL
    clm_N = torch.where(served_N, clm_weight, 1.0).double()
    weight_N = labelled_N.double() / normaliser
    return PositionWeights(clm_N * weight_N, (1 - clm_N) * weight_N)


def by_sequence(
    labels_BT: Tensor, mask_BT: Tensor, served_N: Tensor, *, clm_weight: float | Tensor, normaliser: float
) -> PositionWeights:
    """Give every sequence weight 1/normaliser, as FuseLLM's published code does with one sequence a batch.

    Within a sequence: λ times the mean over its labels, 1-λ times the mean of the fused loss over all its positions,
    the last one, which has no label, among them. clm_weight: λ, for all or of each position [N]. normaliser: the
    sequences of the whole optimiser step.
    """
    weight_BT = clm_weight.view_as(labels_BT) if isinstance(clm_weight, Tensor) else clm_weight
    labelled_BT = (labels_BT != NO_LABEL).double()
    positions_BT = mask_BT.double()
    clm_BT = weight_BT * labelled_BT / labelled_BT.sum(-1, keepdim=True).clamp(min=1)
    fusion_BT = (1 - weight_BT) * positions_BT / positions_BT.sum(-1, keepdim=True).clamp(min=1)
    return PositionWeights(clm_BT.flatten() / normaliser, fusion_BT.flatten() * served_N / normaliser)


def by_reward(scores_BS: Tensor) -> Tensor:
    """Return λ = 1 - max reward of each sequence, float64 [B]; a source's reward is exp(-score) (FuseLLM's variant).

    scores_BS: nats of each source on the sequence, NaN where it has none. Without any score λ is 1: the label alone.
    """
    if not scores_BS.shape[1]:
        return torch.ones(len(scores_BS), dtype=torch.float64, device=scores_BS.device)
    return 1 - torch.exp(-scores_BS.double()).nan_to_num(nan=0).amax(-1).clamp(max=1)
