"""The two visits to a chunk of logits on a GPU: an online log-sum-exp, then the gradient in place.

legend: C positions of a chunk, V vocabulary, S spans, P points

Each visit reads every logit once and the second writes it once; what the label and the kept tokens get instead is
written by the same program that wrote around them. All divergences use both: what lies between concerns a few numbers
for each position and is torch's (`epilogue.py`). Where Triton is missing this module imports all the same; `AVAILABLE`
tells. With TRITON_INTERPRET=1, set before Triton is imported, the visits run on a CPU.
"""

import torch
from torch import Tensor

from logitfuse.kernels.losses.passes import Shape, Sums, Written

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton comes with torch's CUDA builds and with no other
    AVAILABLE = False
else:
    AVAILABLE = True

WIDTH = 4096  # tokens that a program holds at once
SPAN = 8 * WIDTH  # tokens of one program: short enough that few positions keep a whole GPU busy


class TritonPasses:
    """On a GPU, for float32 and bfloat16; all is computed in float32."""

    def __init__(self, span: int = SPAN) -> None:
        """`span`: tokens of one program."""
        self.span = span

    def outside(self, logits_CV: Tensor, shape: Shape) -> Sums:
        """See `Passes`."""
        C, V = logits_CV.shape
        spans = triton.cdiv(V, self.span)
        peak_CS, plain_CS, tempered_CS = logits_CV.new_empty(3, C, spans, dtype=torch.float32).unbind()
        _outside[(C, spans)](
            logits_CV, peak_CS, plain_CS, tempered_CS, V, logits_CV.stride(0), self.span, *_numbers(shape),
            capped=shape.softcap is not None, two=shape.tempered, width=_width(V, self.span), num_warps=8,
        )  # fmt: skip
        peak_C = peak_CS.amax(-1)
        apart_CS = peak_CS - peak_C.masked_fill(peak_C == -torch.inf, 0)[:, None]
        plain_C = (plain_CS * apart_CS.exp()).sum(-1)
        if not shape.tempered:
            return Sums(peak_C, plain_C, plain_C)
        return Sums(peak_C, plain_C, (tempered_CS * (apart_CS / shape.temperature).exp()).sum(-1))

    def gradient_(self, logits_CV: Tensor, shape: Shape, written: Written) -> None:
        """See `Passes`."""
        (C, V), P = logits_CV.shape, written.ids_CP.shape[1]
        tempered_C = written.plain_C if written.tempered_C is None else written.tempered_C
        _gradient[(C, triton.cdiv(V, self.span))](
            logits_CV, written.peak_C.contiguous(), written.plain_C.contiguous(), tempered_C.contiguous(),
            written.ids_CP.contiguous(), written.values_CP.float().contiguous(), V, logits_CV.stride(0), self.span, P,
            *_numbers(shape), capped=shape.softcap is not None, two=shape.tempered, width=_width(V, self.span),
            points=triton.next_power_of_2(P), num_warps=8,
        )  # fmt: skip


def _numbers(shape: Shape) -> tuple[float, float]:
    """Return the cap and 1/temperature."""
    return shape.softcap or 1.0, 1 / shape.temperature


def _width(V: int, span: int) -> int:
    return int(min(WIDTH, triton.next_power_of_2(min(V, span))))


if AVAILABLE:

    @triton.jit
    def _tanh(x):  # type: ignore[no-untyped-def]
        return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)

    @triton.jit
    def _outside(  # type: ignore[no-untyped-def]
        logits, peaks, plains, tempereds, V, stride, span, cap, inverse,
        capped: tl.constexpr, two: tl.constexpr, width: tl.constexpr,
    ):  # fmt: skip
        """Read one span of one position's logits once; the sums are rescaled as the peak rises."""
        row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
        end = min(part * span + span, V)
        peak = tl.full((), float("-inf"), tl.float32)
        plain, tempered = tl.full((), 0.0, tl.float32), tl.full((), 0.0, tl.float32)
        for start in range(part * span, end, width):
            ids = start + tl.arange(0, width)
            x = tl.load(logits + row * stride + ids, mask=ids < end, other=float("-inf")).to(tl.float32)
            if capped:
                z = tl.where(x == float("-inf"), x, cap * _tanh(x / cap))
            else:
                z = x
            above = tl.maximum(peak, tl.max(z, axis=0))
            shift = tl.where(above == float("-inf"), 0.0, above)  # -inf less -inf would be no number
            plain = plain * tl.exp(peak - shift) + tl.sum(tl.exp(z - shift), axis=0)
            if two:
                tempered = tempered * tl.exp((peak - shift) * inverse) + tl.sum(tl.exp((z - shift) * inverse), axis=0)
            peak = above
        place = row * tl.num_programs(1) + part
        tl.store(peaks + place, peak)
        tl.store(plains + place, plain)
        tl.store(tempereds + place, tempered)

    @triton.jit
    def _gradient(  # type: ignore[no-untyped-def]
        logits, peaks, plains, tempereds, ids_of_points, values, V, stride, span, P, cap, inverse,
        capped: tl.constexpr, two: tl.constexpr, width: tl.constexpr, points: tl.constexpr,
    ):  # fmt: skip
        """Overwrite one span of one position's logits with their gradient."""
        row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
        begin, end = part * span, min(part * span + span, V)
        peak, plain, tempered = tl.load(peaks + row), tl.load(plains + row), tl.load(tempereds + row)
        for start in range(begin, end, width):
            ids = start + tl.arange(0, width)
            place = logits + row * stride + ids
            x = tl.load(place, mask=ids < end, other=0.0).to(tl.float32)
            if capped:
                t = _tanh(x / cap)
                z = cap * t - peak
            else:
                z = x - peak
            gradient = plain * tl.exp(z)
            if two:
                gradient += tempered * tl.exp(z * inverse)
            if capped:
                gradient *= 1.0 - t * t
            tl.store(place, gradient.to(logits.dtype.element_ty), mask=ids < end)
        tl.debug_barrier()  # the points are written by other threads than what stands there by now
        point = tl.arange(0, points)
        ids = tl.load(ids_of_points + row * P + point, mask=point < P, other=-1)
        value = tl.load(values + row * P + point, mask=point < P, other=0.0)
        mine = (ids >= begin) & (ids < end)
        tl.store(logits + row * stride + ids, value.to(logits.dtype.element_ty), mask=mine)
