"""The published loss, written out densely (method of FuseLLM's trainer, one sequence a batch)."""

import torch
from torch import Tensor


def published_loss(
    logits_BTV: Tensor, labels_BT: Tensor, mask_BT: Tensor, target_BTV: Tensor, clm_weight: float, kind: str
) -> Tensor:
    """Mean over sequences of λ·CE(shifted labels) + (1-λ)·Σ mask·D(P, Q) / Σ mask, in float64.

    `labels_BT` are the inputs themselves: position t's logits are scored on label t+1. -100 at padding. The fused
    part is not shifted: position t's logits against target t, the last one too.
    """
    losses = []
    for logits_TV, labels_T, mask_T, target_TV in zip(logits_BTV, labels_BT, mask_BT, target_BTV, strict=True):
        logq_TV = logits_TV.double().log_softmax(-1)
        next_T, before_TV = labels_T[1:], logq_TV[:-1]
        counted = next_T != -100
        clm = -before_TV[counted].gather(1, next_T[counted][:, None]).mean()
        soft_T = -(target_TV.double() * logq_TV).sum(-1)
        if kind == "kl":  # the target's own part in bfloat16, as the target is
            soft_T = soft_T + torch.xlogy(target_TV, target_TV).double().sum(-1)
        soft = (soft_T * mask_T).sum() / mask_T.sum()
        losses.append(clm_weight * clm + (1 - clm_weight) * soft)
    return torch.stack(losses).mean()


def decayed(clm_weight: float, step: int, steps: int) -> float:
    """λ of a step under the published decay."""
    return clm_weight + (1 - clm_weight) * (step / steps)


def distribution(logits: list[float], ids: list[int], vocabulary: int, temperature: float) -> Tensor:
    """One position's dense target as the collator makes it: softmax of the kept logits, all in bfloat16."""
    probs = torch.softmax(torch.tensor(logits, dtype=torch.bfloat16) / temperature, -1)
    return torch.zeros(vocabulary, dtype=torch.bfloat16).scatter_(-1, torch.tensor(ids), probs)
