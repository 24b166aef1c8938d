"""A model's output head: exact float32 results, most of them from bfloat16 logits.

legend: N positions, H hidden size, V vocabulary, C candidates, K kept

With bfloat16 logits most positions hold exact ties among their best ten, so which tokens are kept would depend on the
implementation. A float32 head is exact but takes several times as long. So on a CPU: logits in bfloat16 give
candidates; the candidates and the true token are scored again in float32; a bound on the rounding proves that no other
token can be among the best k, and positions where it does not hold are computed in float32 whole.

The other tokens still enter the normaliser rounded. A bfloat16 is off by a part in 512 of itself, which for a logit of
20 shifts log-probabilities by more than 1e-3. So a level near the likely tokens' logits is taken off inside the matrix
product, before its result is rounded: what matters is then near zero, where bfloat16 is fine.
"""

from dataclasses import dataclass, field
from threading import local

import torch
from torch import Tensor

from logitfuse.kernels.bfloat16_scan import products, scan
from logitfuse.kernels.blockmax import block_maxima, topk_of_blocks
from logitfuse.kernels.keep import Keep, cut_to_mass
from logitfuse.kernels.sampling import sampled
from logitfuse.kernels.topk import RANK_CAP, TopK, left_out, published_topk, rank_among, topk_logprobs

CANDIDATES = 64  # at least; more than RANK_CAP, so that they tell the true token's rank
SMALL = 256  # a smaller vocabulary is not worth the trouble
SAMPLED = 1024  # tokens whose largest logit is the level
# bfloat16 keeps 8 bits: rounding to nearest is off by at most 2^-9 of the value, and twice that by the bound.
ROUNDING = 2.0**-8
ACCUMULATION = 2.0**-16  # of the level: what float32 sums may differ by
LOGPROB_ERROR, DEVIATIONS = 1e-3, 4  # allowed, and how many standard deviations of the normaliser must fit in


@dataclass(frozen=True)
class Head:
    """The output projection and what the architecture does to its logits (scale, then soft cap)."""

    weight_VH: Tensor  # in the body's precision
    exact_VH: Tensor  # float32
    bias_V: Tensor | None
    soft_cap: float | None
    scale: float
    _room: local = field(default_factory=local, init=False, repr=False, compare=False)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Return float32 logits [N, V]; on a GPU from a bfloat16 product that is never rounded."""
        if hidden_NH.is_cuda and hidden_NH.dtype == self.weight_VH.dtype == torch.bfloat16:
            logits_NV = torch.mm(hidden_NH, self.weight_VH.T, out_dtype=torch.float32)
            return self._finish(logits_NV if self.bias_V is None else logits_NV + self.bias_V)
        return self._finish(torch.nn.functional.linear(hidden_NH.float(), self.exact_VH, self.bias_V))

    @torch.no_grad()
    def kept(self, hidden_NH: Tensor, gold_N: Tensor, keep: Keep, noise_N: Tensor | None = None) -> TopK:
        """Return what a rule keeps; `noise_N` float64 in [0, 1) is what mode sampled draws by.

        A temperature, and mode sampled, need every logit: on a CPU those come from a float32 product, which takes
        several times as long as one in bfloat16.
        """
        if keep.raw_logits:
            return self.published_topk(hidden_NH, gold_N, keep.k)
        if keep.mode == "sampled":
            assert noise_N is not None, "mode sampled draws by noise"
            return sampled(self.logits(hidden_NH), gold_N, keep.k, keep.draws, noise_N, keep.temperature)
        if keep.needs_all_logits:
            found = topk_logprobs(self.logits(hidden_NH), gold_N, keep.k, keep.temperature)
        else:
            found = self.topk(hidden_NH, gold_N, keep.k)
        return cut_to_mass(found, keep.top_p) if keep.mode == "topp" else found

    @torch.no_grad()
    def topk(self, hidden_NH: Tensor, gold_N: Tensor, k: int) -> TopK:
        """Return the k likeliest tokens and the true one's place: those of `topk_logprobs(self.logits(hidden))`.

        Where the body is bfloat16, log-probabilities agree to 1e-3 (the normaliser sums rounded logits).
        """
        if hidden_NH.is_cuda or hidden_NH.dtype != torch.bfloat16 or len(self.weight_VH) < max(SMALL, 2 * k):
            return best_of(self.logits(hidden_NH), gold_N, k)
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
        level_N1 = self._level(hidden_NH)
        rough_NV = self._rough(hidden_NH, level_N1)
        lse_N, ids_NC, rough_NC = self._likely(rough_NV, level_N1, max(CANDIDATES, k + 32))
        raw_NC = self._exact(hidden_NH, ids_NC)
        exact_NC, gold_exact_N = self._finish(raw_NC), self._finish(self._exact(hidden_NH, gold_N[:, None])[:, 0])
        slack_NC = self._slack(rough_NC, level_N1)
        least_N1 = rough_NC.argmin(-1, keepdim=True)
        # What the exact logit of any other token can be at most.
        bound_N = self._finish((rough_NC + slack_NC).gather(1, least_N1)[:, 0])
        swapped_N = _swap(lse_N, self._finish(rough_NC), exact_NC)
        values_NC, best = exact_NC.sort(dim=-1, descending=True, stable=True)  # they come by id: ties by lowest id
        rank_N = rank_among(exact_NC, ids_NC, gold_N, gold_exact_N)
        logprobs_NC = values_NC - swapped_N[:, None]
        proven_N = (
            (values_NC[:, k - 1] > bound_N)
            & ((gold_exact_N > bound_N) | (rank_N >= RANK_CAP))
            # Should a processor round before it takes the level off, the candidates tell.
            & ((raw_NC - rough_NC).abs() <= slack_NC).all(-1)
            & (self._deviation(logprobs_NC, slack_NC.gather(1, least_N1)[:, 0]) <= LOGPROB_ERROR)
        )
        found = TopK(
            ids_NC.gather(1, best[:, :k]).int(),
            logprobs_NC[:, :k].contiguous(),
            left_out(logprobs_NC[:, :k]),
            gold_exact_N - swapped_N,
            rank_N,
        )
        return found, proven_N

    def _level(self, hidden_NH: Tensor) -> Tensor:
        """Return about the hundredth largest logit [N, 1] in bfloat16: the largest of some tokens'."""
        some_SH = self.weight_VH[:: max(1, len(self.weight_VH) // SAMPLED)]
        return torch.nn.functional.linear(hidden_NH, some_SH).amax(-1, keepdim=True)

    def _rough(self, hidden_NH: Tensor, level_N1: Tensor) -> Tensor:
        """Return logits less the level in bfloat16, rounded once, without bias; they stand until the next call."""
        N, V = len(hidden_NH), len(self.weight_VH)
        room = getattr(self._room, "logits", None)  # memory taken anew for each chunk costs a sixth of the product
        if room is None or len(room) < N:
            with torch.inference_mode(False):  # so that it can be written to in any mode
                room = self._room.logits = hidden_NH.new_empty(N, V)
        return room[:N].copy_(-level_N1.expand(N, V)).addmm_(hidden_NH, self.weight_VH.T)

    def _likely(self, rough_NV: Tensor, level_N1: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-sum-exp [N], the largest logits' ids, rising, and before scale and cap their values [N, C]."""
        if self.bias_V is None and not self.soft_cap:
            lse_N, ids_NC, values_NC = scan(rough_NV, width, self.scale)
            return lse_N + level_N1[:, 0].float() * self.scale, ids_NC, values_NC + level_N1
        values_NV = rough_NV.float() + level_N1
        if self.bias_V is not None:
            values_NV += self.bias_V
        _, ids_NC = topk_of_blocks(values_NV, block_maxima(values_NV), min(width, values_NV.shape[1]))
        ids_NC = ids_NC.sort(dim=-1).values
        return torch.logsumexp(self._finish(values_NV), dim=-1), ids_NC, values_NV.gather(1, ids_NC)

    def _exact(self, hidden_NH: Tensor, ids_NC: Tensor) -> Tensor:
        """Return float32 logits of some tokens before scale and cap."""
        logits_NC = products(hidden_NH, self.weight_VH, ids_NC)
        return logits_NC if self.bias_V is None else logits_NC + self.bias_V[ids_NC]

    def _slack(self, values_NC: Tensor, level_N1: Tensor) -> Tensor:
        """Return by how much the exact value may differ, before scale and cap: both only rise, so bounds pass them."""
        bias = 0.0 if self.bias_V is None else float(self.bias_V.abs().max())
        return ROUNDING * ((values_NC - level_N1).abs() + bias) + ACCUMULATION * (level_N1.float().abs() + 1)

    def _deviation(self, logprobs_NC: Tensor, slack_N: Tensor) -> Tensor:
        """Return how far off the normaliser may be [N]: errors of the tokens that are no candidates, summed.

        Rounding errors are even over ± step / 2, so the sum has variance Σ p² step² / 12, at most p_C Σ p step² / 12,
        and exponentials are too large by step² / 24. Where p² step² could be larger below, it is negligible.
        """
        step_N = (2 * self.scale * slack_N).clamp_min(4 * ROUNDING)
        rest_N = left_out(logprobs_NC)
        spread_N = (logprobs_NC[:, -1].exp() * rest_N / 12).sqrt() * step_N
        return DEVIATIONS * spread_N + rest_N * step_N**2 / 24

    def _finish(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap:
            logits = torch.tanh(logits.float() / self.soft_cap) * self.soft_cap
        return logits


def best_of(logits_NV: Tensor, gold_N: Tensor, k: int) -> TopK:
    """Return `topk_logprobs`, by the Triton kernel where the logits are on a GPU that has Triton."""
    if logits_NV.is_cuda:
        from logitfuse.kernels import triton_topk  # nothing else needs Triton, whose import takes long

        if triton_topk.AVAILABLE:
            return triton_topk.triton_topk_logprobs(logits_NV, gold_N, k)
    return topk_logprobs(logits_NV, gold_N, k)


def _swap(lse_N: Tensor, rough_NC: Tensor, exact_NC: Tensor) -> Tensor:
    """Return a log-sum-exp with the candidates' rounded values swapped for their exact ones."""
    swap_N = (exact_NC - lse_N[:, None]).exp().sum(-1) - (rough_NC - lse_N[:, None]).exp().sum(-1)
    return lse_N + torch.log1p(swap_N)
