"""A model's output head: exact float32 results, most of them from bfloat16 logits.

legend: N positions, H hidden size, V vocabulary, C candidates, K kept

With bfloat16 logits most positions hold exact ties among their best ten, so which tokens are kept would depend on the
implementation. A float32 head is exact but takes several times as long. So: logits in bfloat16 give candidates; the
candidates and the true token are scored again in float32; a bound on the rounding proves that no other token can be
among the best k, and positions where it does not hold are computed in float32 whole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from logitfuse.kernels.topk import RANK_CAP, TopK, left_out, published_topk, topk_logprobs

CANDIDATES = 64
# bfloat16 keeps 8 bits: rounding to nearest is off by at most 2^-9 of the value; twice that covers the float32 sum.
ROUNDING = 2.0**-8


@dataclass(frozen=True)
class Head:
    """The output projection and what the architecture does to its logits (scale, then soft cap)."""

    weight_VH: Tensor  # in the body's precision
    exact_VH: Tensor  # float32
    bias_V: Tensor | None
    soft_cap: float | None
    scale: float

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Return float32 logits [N, V]."""
        return self._finish(torch.nn.functional.linear(hidden_NH.float(), self.exact_VH, self.bias_V))

    def topk(self, hidden_NH: Tensor, gold_N: Tensor, k: int) -> TopK:
        """Return the k likeliest tokens and the true one's place: those of `topk_logprobs(self.logits(hidden))`.

        Log-probabilities agree to about 1e-3 when the body is bfloat16 (the normaliser sums rounded logits).
        """
        if hidden_NH.dtype != torch.bfloat16 or len(self.weight_VH) < 4 * CANDIDATES:
            return topk_logprobs(self.logits(hidden_NH), gold_N, k)
        found, proven_N = self._topk_of_candidates(hidden_NH, gold_N, k)
        if not bool(proven_N.all()):
            rest = ~proven_N
            exact = topk_logprobs(self.logits(hidden_NH[rest]), gold_N[rest], k)
            for whole, part in zip(found, exact, strict=True):
                if whole is not None and part is not None:
                    whole[rest] = part
        return found

    def published_topk(self, hidden_NH: Tensor, gold_N: Tensor, k: int) -> TopK:
        """Return what the published code keeps: from logits as the model itself gives them, rounded to fp16."""
        logits_NV = torch.nn.functional.linear(hidden_NH, self.weight_VH)
        if self.bias_V is not None:
            logits_NV = logits_NV + self.bias_V.to(logits_NV.dtype)
        return published_topk(self._finish(logits_NV), gold_N, k)

    def _topk_of_candidates(self, hidden_NH: Tensor, gold_N: Tensor, k: int) -> tuple[TopK, Tensor]:
        rough_NV = self._rough(hidden_NH)
        width = min(max(CANDIDATES, 2 * k), rough_NV.shape[1])
        rough_NC, ids_NC = torch.topk(rough_NV, width, dim=-1)
        ids_NC, order = ids_NC.sort(dim=-1)  # by id, so that a stable sort by value breaks ties by lowest id
        rough_NC = rough_NC.gather(1, order)
        exact_NC = self._exact(hidden_NH, ids_NC)
        gold_exact_N = self._exact(hidden_NH, gold_N[:, None])[:, 0]
        bound_N = self._bound(rough_NC.amin(-1).float())
        lse_N = _normaliser(self._finish(rough_NV), self._finish(rough_NC), exact_NC)
        values_NC, best = exact_NC.sort(dim=-1, descending=True, stable=True)
        before_NC = (exact_NC > gold_exact_N[:, None]) | (
            (exact_NC == gold_exact_N[:, None]) & (ids_NC < gold_N[:, None])
        )
        before_N = before_NC.sum(-1)
        proven_N = (values_NC[:, k - 1] > bound_N) & ((gold_exact_N > bound_N) | (before_N >= RANK_CAP))
        logprobs_NK = values_NC[:, :k] - lse_N[:, None]
        found = TopK(
            ids_NC.gather(1, best[:, :k]).int(),
            logprobs_NK,
            left_out(logprobs_NK),
            gold_exact_N - lse_N,
            before_N.clamp_max(RANK_CAP).int(),
        )
        return found, proven_N

    def _rough(self, hidden_NH: Tensor) -> Tensor:
        """Return bfloat16 logits; a bias is left to float32, where adding it costs no second rounding."""
        logits_NV = torch.nn.functional.linear(hidden_NH, self.weight_VH)
        return logits_NV if self.bias_V is None else logits_NV.float() + self.bias_V

    def _exact(self, hidden_NH: Tensor, ids_NC: Tensor) -> Tensor:
        rows_NCH = torch.nn.functional.embedding(ids_NC, self.weight_VH).float()
        logits_NC = torch.bmm(rows_NCH, hidden_NH.float()[:, :, None])[:, :, 0]
        if self.bias_V is not None:
            logits_NC = logits_NC + self.bias_V[ids_NC]
        return self._finish(logits_NC)

    def _bound(self, least_N: Tensor) -> Tensor:
        """Return the most that the exact logit of a token outside the candidates can be.

        Scale and soft cap only rise, so the bound is taken before them, where the rounding happened.
        """
        slack_N = ROUNDING * (least_N.abs() + (0.0 if self.bias_V is None else float(self.bias_V.abs().max())))
        return self._finish(least_N + slack_N)

    def _finish(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap:
            logits = torch.tanh(logits.float() / self.soft_cap) * self.soft_cap
        return logits


def _normaliser(rough_NV: Tensor, rough_NC: Tensor, exact_NC: Tensor) -> Tensor:
    """Return log sum exp over V with the candidates' rounded values swapped for their exact ones."""
    lse_N = _lse(rough_NV)
    swap_N = (exact_NC - lse_N[:, None]).exp().sum(-1) - (rough_NC.float() - lse_N[:, None]).exp().sum(-1)
    return lse_N + torch.log1p(swap_N)


def _lse(rough_NV: Tensor) -> Tensor:
    """Return log sum exp in float32; of bfloat16 logits torch.logsumexp would round it to bfloat16 again."""
    top_N1 = rough_NV.amax(-1, keepdim=True).float()
    return (rough_NV.float().sub_(top_N1).exp_().sum(-1, keepdim=True).log_() + top_N1)[:, 0]
