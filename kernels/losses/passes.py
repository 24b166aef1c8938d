"""The two visits to a chunk of logits that the loss needs, in plain torch; other backends do the same faster.

`outside` reads: for each position the largest logit and the sum of exponentials. `gradient_` writes. What happens in
between concerns a few numbers for each position and is the same for all backends (`epilogue.py`). Tokens of the support
are -infinity by then, so that sums are those of all other tokens.
"""

# legend: C positions of a chunk, V vocabulary, P points

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Shape(NamedTuple):
    """What a chunk of logits goes through before its softmax."""

    softcap: float | None = None  # c in c·tanh(z/c)
    temperature: float = 1.0  # of the fused target's loss; the label's is at 1

    @property
    def tempered(self) -> bool:
        """Whether there are two softmaxes."""
        return self.temperature != 1

    def cap(self, logits: Tensor) -> Tensor:
        """Return capped logits."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slope(self, capped: Tensor) -> Tensor | float:
        """Return the cap's slope where it gave `capped`."""
        return 1.0 if self.softcap is None else 1 - (capped / self.softcap).square()


class Sums(NamedTuple):
    """The tokens outside the support, seen at once."""

    peak_C: Tensor  # largest capped logit, -inf where there is none
    plain_C: Tensor  # Σ exp(z - peak), 0 where there is none
    tempered_C: Tensor  # Σ exp((z - peak) / temperature); the same tensor at temperature 1


class Written(NamedTuple):
    """The gradient: plain·exp(z - peak) + tempered·exp((z - peak) / temperature), times the cap's slope."""

    peak_C: Tensor
    plain_C: Tensor
    tempered_C: Tensor | None  # None at temperature 1
    ids_CP: Tensor  # int64, where other values stand
    values_CP: Tensor


class Passes(Protocol):
    """A backend. Both functions take logits that are contiguous by rows."""

    def outside(self, logits_CV: Tensor, shape: Shape) -> Sums:
        """Return the sums, in the wider of float32 and the logits' dtype."""

    def gradient_(self, logits_CV: Tensor, shape: Shape, written: Written) -> None:
        """Overwrite the logits with the gradient in their own dtype."""


class TorchPasses:
    """Everywhere, in any dtype."""

    def outside(self, logits_CV: Tensor, shape: Shape) -> Sums:
        """See `Passes`. Keeps nothing: what a second temporary would hold is computed again when it is written."""
        wide_CV = _wide(logits_CV)
        if shape.softcap is not None:
            wide_CV = shape.cap(wide_CV).masked_fill_(logits_CV == -torch.inf, -torch.inf)
        peak_C = wide_CV.amax(-1)
        shift_C1 = peak_C.masked_fill(peak_C == -torch.inf, 0)[:, None]
        odds_CV = wide_CV - shift_C1
        tempered_C = (odds_CV / shape.temperature).exp_().sum(-1) if shape.tempered else None
        plain_C = odds_CV.exp_().sum(-1)
        return Sums(peak_C, plain_C, plain_C if tempered_C is None else tempered_C)

    def gradient_(self, logits_CV: Tensor, shape: Shape, written: Written) -> None:
        """See `Passes`."""
        capped_CV = shape.cap(_wide(logits_CV))
        slope = shape.slope(capped_CV)
        odds_CV = capped_CV - written.peak_C[:, None]
        gradient_CV = odds_CV.exp() * written.plain_C[:, None]
        if written.tempered_C is not None:
            gradient_CV += odds_CV.div_(shape.temperature).exp_() * written.tempered_C[:, None]
        logits_CV.copy_(gradient_CV * slope)
        put_(logits_CV, written.ids_CP, written.values_CP)


def put_(logits_CV: Tensor, ids_CP: Tensor, values_CP: Tensor) -> None:
    """Write a few values of each row. On a CPU `scatter_` copies all of a bfloat16 tensor for this."""
    rows_C1 = torch.arange(len(ids_CP), device=ids_CP.device)[:, None]
    logits_CV.index_put_((rows_C1, ids_CP), values_CP.to(logits_CV.dtype))


def _wide(logits_CV: Tensor) -> Tensor:
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
