"""Top-k of a softmax over the whole vocabulary.            legend: T positions, V vocabulary, K kept"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logitfuse.kernels.blockmax import block_maxima, topk_of_blocks

RANK_CAP = 32  # nobody asks which of the unlikely tokens came 1,000th, and counting that far is a pass over all of V


class TopK(NamedTuple):
    """What capture keeps of each position."""

    ids_TK: Tensor  # int32, best first, equal values by lowest id
    logprobs_TK: Tensor  # float32, of the full softmax
    tail_T: Tensor  # float32, mass outside the kept tokens
    gold_logprob_T: Tensor  # float32
    gold_rank_T: Tensor  # int32, 0 is the likeliest, equal values by lowest id; RANK_CAP means that or later
    logits_TK: Tensor | None = None  # float32 holding fp16 values, where raw logits are asked for
    counts_T: Tensor | None = None  # int32, how many of the K are kept, None for all of them
    draws_TK: Tensor | None = None  # int32, how often each was drawn, 0 where it is kept for certain


def joined(parts: Sequence[TopK]) -> TopK:
    """Return several blocks of positions after one another."""
    columns = [None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)]
    return TopK(*columns)  # type: ignore[arg-type]


def topk_logprobs(logits_TV: Tensor, gold_T: Tensor, k: int, temperature: float = 1.0) -> TopK:
    """Keep the k likeliest tokens of each position, the mass left out, and how the true token fared.

    The normaliser covers all of V, so `exp(logprobs).sum(-1) + tail == 1`. Logits should be float32: with bfloat16
    most rows hold exact ties within their best ten. `temperature` divides the logits of what is kept; the true token
    is always told as the model itself predicts it.
    """
    values_TW, ids_TW = stable_topk(logits_TV, min(max(k, RANK_CAP), logits_TV.shape[-1]))
    lse_T = torch.logsumexp(logits_TV, dim=-1)
    kept_lse_T = lse_T if temperature == 1 else torch.logsumexp(logits_TV.float() / temperature, dim=-1)
    logprobs_TK = values_TW[:, :k] / temperature - kept_lse_T[:, None]
    gold_logit_T = logits_TV.gather(1, gold_T[:, None].long())[:, 0]
    return TopK(
        ids_TW[:, :k].int(),
        logprobs_TK,
        left_out(logprobs_TK),
        gold_logit_T - lse_T,
        rank_among(values_TW, ids_TW, gold_T, gold_logit_T),
    )


def published_topk(logits_TV: Tensor, gold_T: Tensor, k: int) -> TopK:
    """Keep what FuseLLM's published code keeps: everything is computed from logits rounded to fp16.

    Rounded logits often tie; the lowest id wins (the published code leaves that to the GPU).
    """
    rounded_TV = logits_TV.half().float()
    found = topk_logprobs(rounded_TV, gold_T, k)
    return found._replace(logits_TK=rounded_TV.gather(1, found.ids_TK.long()))


def stable_topk(logits_TV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values, float32, and their ids, equal values by lowest id (torch.topk promises no order)."""
    return topk_of_blocks(logits_TV, block_maxima(logits_TV), k)


def left_out(logprobs_TK: Tensor) -> Tensor:
    """Return 1 - sum(exp(logprobs)), never below zero, summed in float64 because the tail can be tiny."""
    return (1.0 - logprobs_TK.double().exp().sum(-1)).clamp_min(0.0).float()


def rank_among(values_TC: Tensor, ids_TC: Tensor, gold_T: Tensor, gold_logit_T: Tensor) -> Tensor:
    """Return how many of the likeliest tokens come before the true one, at most RANK_CAP, int32 [T].

    Equal logits by lowest id. Those given, in any order, must be at least RANK_CAP or all there are.
    """
    above_TC = values_TC > gold_logit_T[:, None]
    tied_before_TC = (values_TC == gold_logit_T[:, None]) & (ids_TC < gold_T[:, None])
    return (above_TC | tied_before_TC).sum(-1).clamp_max(RANK_CAP).int()
