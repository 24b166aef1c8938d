"""Predictions at some positions as they are compared: what a store, or another run of the model, keeps of them."""

# legend: P positions, K most tokens kept at one of them, N kept tokens of all, V vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitfuse.kernels.topk import RANK_CAP, rank_among, stable_topk
from logitfuse.tasks.models.causal import CausalModel


@dataclass(frozen=True)
class Reading:
    """What is kept of P positions: tokens best first, `there` saying which of the K places hold one."""

    ids_PK: Tensor  # int64
    logprobs_PK: Tensor  # float32
    there_PK: Tensor  # bool
    rest_P: Tensor  # float32, mass outside these tokens
    gold_P: Tensor  # float32, of the token that follows, before any temperature
    rank_P: Tensor  # int32, at most RANK_CAP

    def rows(self, rows: slice, device: torch.device) -> Reading:
        """Return some of the positions, on a device."""
        return Reading(*(column[rows].to(device) for column in vars(self).values()))


def stored_reading(stored: dict[str, NDArray[Any]]) -> Reading:
    """Return what stands in the store of a chunk; tokens that were drawn count as mass outside the others.

    A drawn token's number is an estimate, right on average only, so it can be compared with nothing.
    """
    counts_P, draws_N = stored["counts"].astype(np.int64), stored["draws"]
    position_N = np.repeat(np.arange(len(counts_P)), counts_P)
    drawn_N = draws_N > 0 if len(draws_N) else np.zeros(len(position_N), np.bool_)
    probs_N = np.exp(stored["logprobs"].astype(np.float64)) * drawn_N
    rest_P = stored["tail"] + np.bincount(position_N, probs_N, minlength=len(counts_P))
    certain_P = np.bincount(position_N[~drawn_N], minlength=len(counts_P))
    there_PK = np.arange(certain_P.max(initial=1)) < certain_P[:, None]
    ids_PK, logprobs_PK = np.zeros(there_PK.shape, np.int64), np.zeros(there_PK.shape, np.float32)
    ids_PK[there_PK], logprobs_PK[there_PK] = stored["ids"][~drawn_N], stored["logprobs"][~drawn_N]
    columns = (ids_PK, logprobs_PK, there_PK, rest_P.astype(np.float32), stored["gold_logprob"], stored["gold_rank"])
    return Reading(*map(torch.from_numpy, columns))


@dataclass(frozen=True)
class Dense:
    """The live model's whole distributions at a few positions."""

    logprobs_PV: Tensor  # float32, after the temperature
    gold_P: Tensor
    rank_P: Tensor

    def kept(self, there_PK: Tensor) -> Reading:
        """Return what would be kept of them: the likeliest tokens, as many as `there_PK` says at each position."""
        logprobs_PK, ids_PK = stable_topk(self.logprobs_PV, there_PK.shape[1])
        rest_P = 1 - (logprobs_PK.double().exp() * there_PK).sum(-1)
        return Reading(ids_PK.long(), logprobs_PK, there_PK, rest_P.clamp_min(0).float(), self.gold_P, self.rank_P)


@torch.inference_mode()
def dense(model: CausalModel, hidden_PH: Tensor, gold_P: Tensor, temperature: float, *, rounded: bool) -> Dense:
    """Return the softmax of every position, from an exact float32 head; `rounded`: its logits, as the published code's.

    `gold_P` int64 holds what follows; where nothing does, any token may stand.
    """
    logits_PV = model.head.logits(hidden_PH)
    if rounded:
        logits_PV = logits_PV.to(hidden_PH.dtype).half().float()
    values_PC, ids_PC = stable_topk(logits_PV, min(RANK_CAP, logits_PV.shape[-1]))
    gold_logit_P = logits_PV.gather(1, gold_P[:, None])[:, 0]
    rank_P = rank_among(values_PC, ids_PC, gold_P, gold_logit_P)
    gold_logprob_P = gold_logit_P - torch.logsumexp(logits_PV, dim=-1)
    if temperature != 1:
        logits_PV = logits_PV / temperature
    return Dense(torch.log_softmax(logits_PV, dim=-1), gold_logprob_P, rank_P)
