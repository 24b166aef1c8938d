"""The two visits to a chunk of logits on a CPU, compiled: a row stays in the processor's cache while it is worked on.

legend: C positions of a chunk, V vocabulary, P points

torch would write several whole chunks of float32 where this reads one row and writes it back. float32 and bfloat16
share their code: a bfloat16 is the upper half of a float32. Rows are shared out among as many threads as torch may use;
each row's result is its own, the same for any number of them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

from logitfuse.kernels.losses.passes import Shape, Sums, Written, put_

FAST = {"reassoc", "contract", "nsz"}  # sums in any order, so that they are vectorised; infinities and NaN stay
SUMMED = 4096  # summed in float32, beyond that in float64
BITS = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16}
LOWEST = np.float32(-87.0)  # exp of less is 0 here


class NumbaPasses:
    """On a CPU, for float32 and bfloat16."""

    def outside(self, logits_CV: Tensor, shape: Shape) -> Sums:
        """See `Passes`."""
        bits_CV = _bits(logits_CV)
        found_3C = np.empty((3, len(bits_CV)), np.float32)
        cap, inverse = _numbers(shape)
        _shared_out(len(bits_CV), lambda part: _outside(bits_CV[part], cap, inverse, found_3C[:, part]))
        return Sums(*torch.from_numpy(found_3C).unbind())

    def gradient_(self, logits_CV: Tensor, shape: Shape, written: Written) -> None:
        """See `Passes`."""
        bits_CV = _bits(logits_CV)
        tempered_C = torch.zeros_like(written.plain_C) if written.tempered_C is None else written.tempered_C
        rows_3C = torch.stack([written.peak_C, written.plain_C, tempered_C]).numpy()
        cap, inverse = _numbers(shape)
        _shared_out(len(bits_CV), lambda part: _gradient(bits_CV[part], cap, inverse, rows_3C[:, part]))
        put_(logits_CV, written.ids_CP, written.values_CP)


def add_bfloat16_(sums: Tensor, added: Tensor, *, first: bool = False) -> None:
    """Add bfloat16 numbers to float32 ones in place, both [R, H] and contiguous, without a float32 copy of them.

    first: `sums` holds nothing yet.
    """
    whole, bits = sums.numpy(), _bits(added)
    _shared_out(len(whole), lambda part: _add(whole[part], bits[part], first))


def _bits(values: Tensor) -> np.ndarray:
    return values.detach().view(BITS[values.dtype]).numpy()


def _numbers(shape: Shape) -> tuple[np.float32, np.float32]:
    """Return the cap, 0 for none, and 1/temperature."""
    return np.float32(shape.softcap or 0), np.float32(1 / shape.temperature)


def _shared_out(rows: int, work: Callable[[slice], None]) -> None:
    """Do parts of the rows in as many threads as torch may use."""
    workers = max(1, min(torch.get_num_threads(), rows))
    cuts = np.linspace(0, rows, workers + 1).astype(int)
    parts = [slice(first, last) for first, last in pairwise(cuts)]
    if workers == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, parts))


@numba.njit(nogil=True, inline="always")
def _float(bits, shift):  # type: ignore[no-untyped-def]
    """Return the float32 whose upper bits these are; `shift` more are zero."""
    return np.uint32(np.uint32(bits) << shift).view(np.float32)


@numba.njit(nogil=True, inline="always")
def _exp(x: np.float32) -> np.float32:
    """exp for x at most 80, to float32 rounding: 2^n by its bits, 2^f by a polynomial. The comparison lets NaN pass."""
    t = x * np.float32(1.4426950408889634)
    t = np.float32(-126.0) if t < np.float32(-126.0) else t
    n = np.floor(t + np.float32(0.5))
    f = t - n
    p = np.float32(1.546144472e-4)
    p = p * f + np.float32(1.340042818e-3)
    p = p * f + np.float32(9.618056678e-3)
    p = p * f + np.float32(5.550327227e-2)
    p = p * f + np.float32(2.402265092e-1)
    p = p * f + np.float32(6.931472067e-1)
    p = p * f + np.float32(1.0)
    found = p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(0.0) if x < LOWEST else found


@numba.njit(nogil=True, inline="always", error_model="numpy")
def _tanh(x: np.float32) -> np.float32:
    """To a part in 10^7 of 1, not of itself, which a cap's slope and logits of a softmax ask for."""
    doubled = np.float32(2.0) * x
    doubled = np.float32(80.0) if doubled > np.float32(80.0) else doubled
    return np.float32(1.0) - np.float32(2.0) / (_exp(doubled) + np.float32(1.0))


@numba.njit(cache=True, nogil=True)
def _largest(bits):  # type: ignore[no-untyped-def]
    """Return the largest number, NaN counted above all. Integers that order as the floats do are faster to compare."""
    most, shift = np.int32(-2147483648), np.uint32(32 - 8 * bits.itemsize)
    for i in range(len(bits)):
        signed = np.int32(np.uint32(bits[i]) << shift)
        key = signed ^ ((signed >> np.int32(31)) & np.int32(0x7FFFFFFF))
        most = key if key > most else most
    return np.int32(most ^ ((most >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _sum(bits, inverse, peak):  # type: ignore[no-untyped-def]
    total, shift = np.float32(0.0), np.uint32(32 - 8 * bits.itemsize)
    for i in range(len(bits)):
        total += _exp((_float(bits[i], shift) - peak) * inverse)
    return total


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _sum_capped(bits, cap, inverse, peak):  # type: ignore[no-untyped-def]
    total, shift = np.float32(0.0), np.uint32(32 - 8 * bits.itemsize)
    for i in range(len(bits)):
        x = _float(bits[i], shift)
        odds = _exp((cap * _tanh(x / cap) - peak) * inverse)
        total += np.float32(0.0) if x == np.float32(-np.inf) else odds
    return total


@numba.njit(cache=True, nogil=True)
def _sum_row(bits, cap, inverse, peak):  # type: ignore[no-untyped-def]
    total = 0.0
    for start in range(0, len(bits), SUMMED):
        some = bits[start : start + SUMMED]
        total += _sum(some, inverse, peak) if cap == 0 else _sum_capped(some, cap, inverse, peak)
    return total


@numba.njit(cache=True, nogil=True)
def _outside(bits, cap, inverse, found):  # type: ignore[no-untyped-def]
    """Fill in peak, plain and tempered sum of each row."""
    for row in range(bits.shape[0]):
        peak = _largest(bits[row])
        found[:, row] = np.float32(0.0)
        if cap != 0 and peak != -np.inf:
            peak = cap * _tanh(peak / cap)
        found[0, row] = peak
        if peak == -np.inf:
            continue
        found[1, row] = _sum_row(bits[row], cap, np.float32(1.0), peak)
        found[2, row] = _sum_row(bits[row], cap, inverse, peak) if inverse != 1 else found[1, row]


@numba.njit(nogil=True, inline="always")
def _stored(value, shift):  # type: ignore[no-untyped-def]
    """Return a float32's upper bits, rounded to nearest even where some are left off."""
    u = np.float32(value).view(np.uint32)
    last = np.uint32(np.uint32(u >> shift) & np.uint32(1))
    half = np.uint32(np.uint32(np.uint32(1) << shift) >> np.uint32(1))
    return np.uint32(np.uint32(u + np.uint32(max(half, np.uint32(1)) - np.uint32(1) + min(last, half))) >> shift)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _write(bits, peak, plain):  # type: ignore[no-untyped-def]
    shift = np.uint32(32 - 8 * bits.itemsize)
    for i in range(len(bits)):
        bits[i] = _stored(plain * _exp(_float(bits[i], shift) - peak), shift)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _write_tempered(bits, inverse, peak, plain, tempered):  # type: ignore[no-untyped-def]
    shift = np.uint32(32 - 8 * bits.itemsize)
    for i in range(len(bits)):
        z = _float(bits[i], shift) - peak
        bits[i] = _stored(plain * _exp(z) + tempered * _exp(z * inverse), shift)


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _write_capped(bits, cap, inverse, peak, plain, tempered):  # type: ignore[no-untyped-def]
    shift = np.uint32(32 - 8 * bits.itemsize)
    for i in range(len(bits)):
        t = _tanh(_float(bits[i], shift) / cap)
        z = cap * t - peak
        gradient = plain * _exp(z) + tempered * _exp(z * inverse)
        bits[i] = _stored(gradient * (np.float32(1.0) - t * t), shift)


@numba.njit(cache=True, nogil=True)
def _gradient(bits, cap, inverse, rows):  # type: ignore[no-untyped-def]
    for row in range(bits.shape[0]):
        peak, plain, tempered = rows[0, row], rows[1, row], rows[2, row]
        if cap != 0:
            _write_capped(bits[row], cap, inverse, peak, plain, tempered)
        elif inverse != 1:
            _write_tempered(bits[row], inverse, peak, plain, tempered)
        else:
            _write(bits[row], peak, plain)


@numba.njit(cache=True, nogil=True)
def _add(sums, bits, first):  # type: ignore[no-untyped-def]
    shift = np.uint32(32 - 8 * bits.itemsize)
    for row in range(sums.shape[0]):
        if first:
            for i in range(sums.shape[1]):
                sums[row, i] = _float(bits[row, i], shift)
        else:
            for i in range(sums.shape[1]):
                sums[row, i] += _float(bits[row, i], shift)
