"""Gradients of hidden states, head and bias, filled in chunk by chunk; the head's are summed in float32 at least."""

# legend: N positions, C positions of a chunk, H hidden size, V vocabulary

import torch
from torch import Tensor

from logitfuse.kernels.losses.numba_passes import add_bfloat16_

HEAD_BLOCK = 4096  # rows of the head whose 16-bit product exists at once before it is added in float32


class Gradients:
    """What the backward pass returns."""

    def __init__(self, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> None:
        """Make room for the gradients of what learns."""
        self._dtypes = hidden_NH.dtype, weight_VH.dtype, None if bias_V is None else bias_V.dtype
        self.hidden_NH = torch.zeros_like(hidden_NH) if hidden_NH.requires_grad else None
        self.weight_VH = _room(weight_VH) if weight_VH.requires_grad else None
        self._chunks = 0
        self.bias_V = _room(bias_V).zero_() if bias_V is not None and bias_V.requires_grad else None

    def add(self, rows_C: Tensor, logits_CV: Tensor, hidden_CH: Tensor, head_VH: Tensor) -> None:
        """Add a chunk, given the gradient of its logits."""
        if self.bias_V is not None:
            self.bias_V.add_(logits_CV.sum(0, dtype=self.bias_V.dtype))
        logits_CV = logits_CV.to(head_VH.dtype)
        if self.hidden_NH is not None:
            self.hidden_NH[rows_C] = (logits_CV @ head_VH).to(self.hidden_NH.dtype)
        if self.weight_VH is not None:
            _add_product_(self.weight_VH, logits_CV, hidden_CH, first=self._chunks == 0)
        self._chunks += 1

    def finished(self, loss_gradient: Tensor) -> list[Tensor | None]:
        """Return the three gradients times the loss's own, each in the dtype of what it belongs to."""
        if self.weight_VH is not None and not self._chunks:
            self.weight_VH.zero_()
        found = (self.hidden_NH, self.weight_VH, self.bias_V)
        # The usual case, and a visit to the whole head saved; to ask a GPU would mean to wait for it.
        same = not loss_gradient.is_cuda and bool(loss_gradient == 1)
        return [
            None if gradient is None else (gradient if same else gradient.mul_(loss_gradient)).to(dtype)
            for gradient, dtype in zip(found, self._dtypes, strict=True)
        ]


def _room(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _add_product_(sums_VH: Tensor, logits_CV: Tensor, hidden_CH: Tensor, *, first: bool) -> None:
    """Add logitsᵀ · hidden, or write it where it is the first: memory is not cleared before. What is narrower than the
    sums is never added up in its own precision.
    """
    kept = 0 if first else 1
    if hidden_CH.dtype == sums_VH.dtype:
        sums_VH.addmm_(logits_CV.T, hidden_CH, beta=kept)
        return
    if sums_VH.is_cuda and sums_VH.dtype == torch.float32:
        torch.addmm(sums_VH, logits_CV.T, hidden_CH, out_dtype=torch.float32, beta=kept, out=sums_VH)
        return
    for start in range(0, len(sums_VH), HEAD_BLOCK):
        block = slice(start, start + HEAD_BLOCK)
        product = logits_CV[:, block].T @ hidden_CH
        if product.dtype == torch.bfloat16 and sums_VH.dtype == torch.float32 and not sums_VH.is_cuda:
            add_bfloat16_(sums_VH[block], product, first=first)
        elif first:
            sums_VH[block] = product
        else:
            sums_VH[block] += product
