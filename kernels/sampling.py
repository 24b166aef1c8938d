"""Keeping a whole distribution by chance: the likeliest tokens for certain, the tail by unbiased draws.

A truncated top-k teaches that the tail is empty, which biases what is learned from it. Drawn tokens that stand for
the tail do not (Anshumann et al., Sparse Logit Sampling, ACL 2025). Here the k likeliest keep their own probabilities,
and n tokens are drawn from the rest in proportion to it; one drawn c times stands for c/n of the tail. The estimate of
every token's probability is unbiased, all of them sum to 1, and its variance is below that of drawing from the whole.

The n draws of a position share one random number: they lie evenly spaced on the cumulated tail (systematic sampling),
so a token with n·p ≥ 1 is never missed. Where the number comes from is the caller's.

legend: T positions, V vocabulary, K likeliest, N draws
"""

import torch
from torch import Tensor

from logitfuse.kernels.topk import TopK, topk_logprobs

ROWS = 16  # whose cumulated tails, in float64, exist at a time


def sampled(logits_TV: Tensor, gold_T: Tensor, k: int, draws: int, noise_T: Tensor, temperature: float = 1.0) -> TopK:
    """Keep the k likeliest tokens of each position and `draws` draws from the rest; `noise_T` float64 in [0, 1).

    `logprobs` are logarithms of the estimates; `tail` is 0. Rows have up to k + draws tokens (`counts_T`).
    """
    best = topk_logprobs(logits_TV, gold_T, k, temperature)
    drawn_TN, times_TN, left_T = draw_tails(logits_TV, best.ids_TK, draws, noise_T, temperature)
    # A tail that is too small to be drawn from in float64 is nothing.
    share_TN = (left_T[:, None] / draws) * times_TN
    logprobs_TM = torch.cat([best.logprobs_TK, share_TN.log().float()], dim=1)
    ids_TM = torch.cat([best.ids_TK, drawn_TN], dim=1)
    draws_TM = torch.cat([torch.zeros_like(best.ids_TK), times_TN.int()], dim=1)
    by_id = ids_TM.argsort(dim=-1, stable=True)
    by_value = logprobs_TM.gather(1, by_id).argsort(dim=-1, descending=True, stable=True)
    order = by_id.gather(1, by_value)
    return best._replace(
        ids_TK=ids_TM.gather(1, order),
        logprobs_TK=logprobs_TM.gather(1, order),
        draws_TK=draws_TM.gather(1, order),
        tail_T=torch.zeros_like(best.tail_T),
        counts_T=k + (times_TN > 0).sum(-1).int(),
    )


def draw_tails(
    logits_TV: Tensor, kept_TK: Tensor, draws: int, noise_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw from what is left of each softmax without the kept ids.

    Returns ids int32 [T, N], rising, how often each was drawn [T, N] (0 for filling), and the left mass float64 [T].
    """
    parts = [
        _draw(logits.double() / temperature, kept.long(), draws, noise)
        for logits, kept, noise in zip(logits_TV.split(ROWS), kept_TK.split(ROWS), noise_T.split(ROWS), strict=True)
    ]
    ids, times, left = (torch.cat(column) for column in zip(*parts, strict=True))
    return ids, times, left


def _draw(logits_TV: Tensor, kept_TK: Tensor, draws: int, noise_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rest_TV = torch.softmax(logits_TV, dim=-1).scatter_(1, kept_TK, 0.0)
    until_TV = rest_TV.cumsum(dim=-1)
    left_T = until_TV[:, -1].clone()
    steps_TN = torch.arange(draws, device=left_T.device) + noise_T.to(left_T.device)[:, None]
    marks_TN = steps_TN * (left_T / draws)[:, None]
    # The first token whose sum is above the mark: one without mass never is. Rounding may put a mark on the very end.
    last_T = (rest_TV > 0).to(torch.uint8).cumsum(-1).argmax(-1, keepdim=True)
    ids_TN = torch.searchsorted(until_TV, marks_TN, right=True).minimum(last_T)
    return *_counted(ids_TN, left_T > 0), left_T


def _counted(ids_TN: Tensor, there_T: Tensor) -> tuple[Tensor, Tensor]:
    """Return rising ids once each, in front, and how often each stood there; all zero where nothing is there."""
    new_TN = torch.ones_like(ids_TN, dtype=torch.bool)
    new_TN[:, 1:] = ids_TN[:, 1:] != ids_TN[:, :-1]
    place_TN = new_TN.long().cumsum(-1) - 1
    found_TN = torch.zeros_like(ids_TN).scatter_(1, place_TN, ids_TN)
    times_TN = torch.zeros_like(ids_TN).scatter_add_(
        1, place_TN, there_T.long()[:, None].expand_as(ids_TN).contiguous()
    )
    return found_TN.int(), times_TN
