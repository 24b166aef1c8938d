"""What is kept of a distribution over the whole vocabulary: the likeliest tokens, enough of them, or a sample."""

# legend: T positions, V vocabulary, K kept

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from logitfuse.kernels.topk import TopK

Mode = Literal["topk", "topp", "sampled"]


@dataclass(frozen=True)
class Keep:
    """A rule by which tokens are kept; what a mode does not name has no meaning in it."""

    k: int = 10  # topk: as many; topp: at most as many; sampled: as many for certain
    mode: Mode = "topk"
    top_p: float = 0.95  # topp: mass that is enough
    draws: int = 32  # sampled: draws from the rest
    temperature: float = 1.0  # divides the logits of what is kept
    raw_logits: bool = False  # topk: as the published code keeps them, logits rounded to fp16

    @property
    def needs_all_logits(self) -> bool:
        """Whether more than the best logits and one log-sum-exp is needed."""
        return self.mode == "sampled" or self.temperature != 1


def cut_to_mass(found: TopK, top_p: float) -> TopK:
    """Keep the fewest of the likeliest tokens whose probabilities reach `top_p`, all K where they do not."""
    probs_TK = found.logprobs_TK.double().exp()
    before_TK = probs_TK.cumsum(-1) - probs_TK
    needed_TK = before_TK < top_p
    needed_TK[:, 0] = True
    kept_T = (probs_TK * needed_TK).sum(-1)
    return found._replace(counts_T=needed_TK.sum(-1).int(), tail_T=(1.0 - kept_T).clamp_min(0.0).float())


def all_finite(found: TopK) -> Tensor:
    """Say of which positions everything that is kept is a number, bool [T]."""
    finite_TK = torch.isfinite(found.logprobs_TK)
    if found.counts_T is not None:
        finite_TK |= torch.arange(finite_TK.shape[1], device=finite_TK.device) >= found.counts_T[:, None]
    return finite_TK.all(-1) & torch.isfinite(found.gold_logprob_T)
