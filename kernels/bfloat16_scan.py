"""What a head needs of bfloat16 logits on a CPU: their log-sum-exp and the largest ones, in one visit to each row.

legend: N positions, V vocabulary, B blocks, C candidates

torch would write the logits out as float32 to sum their exponentials, and its top-k sorts more than is asked for. Here
a row stays in the processor's cache: block maxima, then the sum, then the candidates from the few blocks that can hold
one (blockmax.py says why). The candidates' exact products are here too, without a float32 copy of their weights. Rows
are shared out among as many threads as torch may use; each row's result is its own, the same for any number of them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

from logitfuse.kernels.blockmax import BLOCK

FAST = {"reassoc", "contract", "nsz"}  # sums in any order, so that they are vectorised; infinities and NaN stay
SUMMED = 4096  # summed in float32, beyond that in float64


def scan(logits_NV: Tensor, candidates: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return log sum exp(scale · logits) float32 [N], and the largest logits' ids int64 and values float32 [N, C].

    Takes bfloat16 logits on the CPU and a scale above 0. Candidates come in the order of their ids; of equal ones at
    the cut the lowest ids are taken. A row with NaN or +infinity has a log-sum-exp that is not finite.
    """
    N, V = logits_NV.shape
    bits_NV = _bits(logits_NV)
    lse_N, ids_NC = np.empty(N, np.float32), np.empty((N, min(candidates, V)), np.int64)
    values_NC = np.empty(ids_NC.shape, np.float32)
    _shared_out(
        N, lambda part: _scan_rows(bits_NV[part], np.float32(scale), lse_N[part], ids_NC[part], values_NC[part])
    )
    return torch.from_numpy(lse_N), torch.from_numpy(ids_NC), torch.from_numpy(values_NC)


def products(hidden_NH: Tensor, weight_VH: Tensor, ids_NC: Tensor) -> Tensor:
    """Return float32 logits [N, C] of some tokens of each position, from bfloat16 states and weights on the CPU."""
    hidden, weight, ids = hidden_NH.float().contiguous().numpy(), _bits(weight_VH), ids_NC.contiguous().numpy()
    logits_NC = np.empty(ids.shape, np.float32)
    _shared_out(len(ids), lambda part: _products(hidden[part], weight, ids[part], logits_NC[part]))
    return torch.from_numpy(logits_NC)


def _bits(values: Tensor) -> np.ndarray:
    return values.detach().contiguous().view(torch.uint16).numpy()


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
def _float(bits: np.uint16) -> np.float32:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@numba.njit(nogil=True, inline="always")
def _key(bits: np.uint16) -> np.int16:
    """Return an integer that orders as the bfloat16 does; 16 times as fast to compare. It is its own inverse."""
    signed = np.int16(bits)
    return np.int16(signed ^ ((signed >> np.int16(15)) & np.int16(0x7FFF)))


@numba.njit(nogil=True, inline="always")
def _exp(x: np.float32) -> np.float32:
    """exp for x at most 0, to float32 rounding: 2^n by its bits, 2^f by a polynomial through Chebyshev's nodes on ±1/2.

    What would be below 2^-126 is 2^-126. The comparison lets NaN pass.
    """
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
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@numba.njit(cache=True, nogil=True)
def _block_maxima(bits, maxima):  # type: ignore[no-untyped-def]
    """Fill in the largest key of every block."""
    whole = len(bits) // BLOCK
    by_block = bits[: whole * BLOCK].reshape(whole, BLOCK)
    for b in range(whole):
        most = np.int16(-32768)
        for i in range(BLOCK):
            key = _key(by_block[b, i])
            most = key if key > most else most
        maxima[b] = most
    if whole < len(maxima):
        maxima[whole] = np.int16(-32768)
        for i in range(whole * BLOCK, len(bits)):
            maxima[whole] = max(maxima[whole], _key(bits[i]))


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _sum_of_exp(bits: np.ndarray, scale: np.float32, top: np.float32) -> np.float32:
    total = np.float32(0.0)
    for i in range(len(bits)):
        total += _exp((_float(bits[i]) - top) * scale)
    return total


@numba.njit(cache=True, nogil=True)
def _scan_rows(bits, scale, lse, ids, values):  # type: ignore[no-untyped-def]
    V = bits.shape[1]
    maxima = np.empty((V + BLOCK - 1) // BLOCK, np.int16)
    found_ids, found = np.empty(V, np.int64), np.empty(V, np.int16)
    for row in range(bits.shape[0]):
        _block_maxima(bits[row], maxima)
        top = _float(np.uint16(_key(np.uint16(maxima.max()))))
        total = 0.0
        for start in range(0, V, SUMMED):
            total += _sum_of_exp(bits[row, start : start + SUMMED], scale, top)
        lse[row] = np.float32(np.log(total) + np.float64(top) * scale)
        _largest(bits[row], maxima, found_ids, found, ids[row], values[row])


@numba.njit(cache=True, nogil=True)
def _largest(bits, maxima, found_ids, found, ids, values):  # type: ignore[no-untyped-def]
    """Fill in the candidates: all that reaches the C-th largest block maximum, cut to the C largest."""
    C, V = len(ids), len(bits)
    least = np.int16(-32768) if len(maxima) <= C else np.partition(maxima, len(maxima) - C)[len(maxima) - C]
    count = 0
    for b in range(len(maxima)):
        if maxima[b] >= least:
            for i in range(b * BLOCK, min(b * BLOCK + BLOCK, V)):
                if _key(bits[i]) >= least:
                    found_ids[count], found[count] = i, _key(bits[i])
                    count += 1
    cut = np.partition(found[:count], count - C)[count - C]
    room = C - (found[:count] > cut).sum()  # for those equal to the cut
    place = 0
    for i in range(count):
        if found[i] > cut or (found[i] == cut and room > 0):
            room -= found[i] == cut
            ids[place], values[place] = found_ids[i], _float(bits[found_ids[i]])
            place += 1


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _dot(hidden: np.ndarray, bits: np.ndarray) -> np.float32:
    total = np.float32(0.0)
    for i in range(len(hidden)):
        total += hidden[i] * _float(bits[i])
    return total


@numba.njit(cache=True, nogil=True)
def _products(hidden, weight, ids, logits):  # type: ignore[no-untyped-def]
    for row in range(ids.shape[0]):
        for c in range(ids.shape[1]):
            logits[row, c] = _dot(hidden[row], weight[ids[row, c]])
