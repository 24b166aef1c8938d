"""The weighted sum of sparse distributions, which every mixing rule ends in.

How left-out mass is shared: a source's left-out mass stays left out, times its weight, also for tokens that another
source keeps; nothing is guessed about it. So the fused row's left-out mass is the weighted mean of the sources'.
"""

# legend: S sources, T positions, N entries of all sources

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.bfloat16 import Precision, round_bf16
from logitfuse.kernels.fusion.distributions import Distributions

GAPS = (701, 301, 132, 57, 23, 10, 4, 1)  # of Shell's sort: wide rows are made of sorted runs
NARROW = 96  # entries of a row up to which comparing all pairs, without a branch, beats a table and a sort
TILE = 4096  # positions whose probabilities stay in the cache


def mixture(
    sources: Sequence[Distributions], weights_ST: NDArray[np.float64], precision: Precision = "full"
) -> Distributions:
    """Return sum_s weights[s, t] * sources[s][t] for every position t; best first, ties by lowest id.

    Where a source does not serve a position, the weights of those that do are scaled up to their former sum, so a
    served position keeps total weight. With `precision` bf16, products and sums are rounded to bfloat16 one source
    after the other, as the published code adds them up.
    """
    room = sum(len(source.ids) for source in sources)  # pages that are never touched cost nothing
    ids, logprobs = np.empty(room, np.int32), np.empty(room, np.float32)
    offsets, mass = np.zeros(len(sources[0]) + 1, np.int64), np.zeros(len(sources[0]), np.float64)
    n = 0
    for start in range(0, len(mass), TILE):
        stop = min(start + TILE, len(mass))
        parts = [source.take(start, stop) for source in sources]
        tile_ST = np.ascontiguousarray(weights_ST[:, start:stop], np.float64)
        tile_offsets, probs = _tile(parts, tile_ST, precision, ids[n:], mass[start:stop])
        offsets[start + 1 : stop + 1] = n + tile_offsets[1:]
        np.log(probs, out=logprobs[n : n + len(probs)], casting="same_kind")
        n += len(probs)
    return Distributions(offsets, ids[:n], logprobs[:n], mass)


def _tile(
    sources: Sequence[Distributions],
    weights_ST: NDArray[np.float64],
    precision: Precision,
    out_ids: NDArray[np.int32],
    out_mass_T: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Mix a few positions; write their ids and masses, return their offsets and probabilities."""
    bases = np.cumsum([0, *(len(source.ids) for source in sources)])
    offsets_ST = np.stack([source.offsets + base for source, base in zip(sources, bases, strict=False)])
    ids = np.concatenate([source.ids for source in sources])
    probs = np.exp(np.concatenate([source.logprobs for source in sources]), dtype=np.float64)
    mass_ST = np.stack([source.mass for source in sources])
    used_ST = _served_weights(offsets_ST, weights_ST)
    if precision == "bf16":
        probs, used_ST = round_bf16(probs).astype(np.float64), round_bf16(used_ST).astype(np.float64)
    found: tuple[NDArray[np.int64], NDArray[np.float64]]
    found = _mixed(offsets_ST, ids, probs, mass_ST, used_ST, precision == "bf16", out_ids, out_mass_T)
    return found


@numba.njit(cache=True, nogil=True)
def _served_weights(offsets_ST, weights_ST):  # type: ignore[no-untyped-def]
    used_ST = np.zeros_like(weights_ST)
    for t in range(weights_ST.shape[1]):
        have, want, missing = 0.0, 0.0, False
        for s in range(len(weights_ST)):
            want += weights_ST[s, t]
            if offsets_ST[s, t + 1] > offsets_ST[s, t]:
                used_ST[s, t] = weights_ST[s, t]
                have += weights_ST[s, t]
            elif weights_ST[s, t] > 0.0:
                missing = True
        if missing and have > 0.0:
            for s in range(len(weights_ST)):
                used_ST[s, t] *= want / have
    return used_ST


@numba.njit(cache=True, nogil=True)
def _mixed(offsets_ST, ids, probs, mass_ST, used_ST, bf16, out_ids, mass_T):  # type: ignore[no-untyped-def]
    sources, positions = used_ST.shape
    offsets, out_probs = np.zeros(positions + 1, np.int64), np.empty(len(ids), np.float64)
    row_ids, row_probs = np.empty(NARROW + 1, np.int32), np.zeros(NARROW + 1, np.float64)
    rows, slots = _table(offsets_ST)
    single = np.zeros(1, np.float32)
    scratch = (single, single.view(np.uint32))
    n = 0
    for t in range(positions):
        start, width = n, 0
        for s in range(sources):
            if used_ST[s, t] > 0.0:
                width += offsets_ST[s, t + 1] - offsets_ST[s, t]
                mass_T[t] += used_ST[s, t] * mass_ST[s, t]
        if width <= NARROW:
            size = 0
            for s in range(sources):
                if used_ST[s, t] > 0.0:
                    first, stop = offsets_ST[s, t], offsets_ST[s, t + 1]
                    size = _add(ids, probs, first, stop, used_ST[s, t], row_ids, row_probs, size, bf16, scratch)
            _put_in_order(row_ids, row_probs, size, out_ids, out_probs, n)
            row_probs[:size] = 0.0
            n += size
        else:
            for s in range(sources):
                if used_ST[s, t] > 0.0:
                    for j in range(offsets_ST[s, t], offsets_ST[s, t + 1]):
                        i = _place(rows, slots, t, ids[j], out_ids, n)
                        before = out_probs[i] if i < n else 0.0
                        out_ids[i], out_probs[i] = ids[j], _sum(before, used_ST[s, t], probs[j], bf16, scratch)
                        n = max(n, i + 1)
            _sort(out_ids, out_probs, start, n)
        while n > start and out_probs[n - 1] <= 0.0:  # too little for bfloat16
            n -= 1
        if bf16:
            mass_T[t] = out_probs[start:n].sum()
        offsets[t + 1] = n
    return offsets, out_probs[:n]


@numba.njit(cache=True, nogil=True)
def _add(ids, probs, first, stop, weight, row_ids, row_probs, size, bf16, scratch):  # type: ignore[no-untyped-def]
    """Add one source's tokens, which differ from each other, to a row of `size` tokens; return its new size.

    `row_probs` is 0 from `size` on. No branch depends on the tokens: a wrong guess costs more than the scan.
    """
    n = size
    for j in range(first, stop):
        token, place = ids[j], np.int32(0)  # counted from 1; at most one token is the same
        for i in range(np.int32(size)):
            place += np.int32(row_ids[i] == token) * np.int32(i + 1)
        i = place - 1 if place > 0 else n
        row_ids[n] = token  # never among the tokens that are being looked at: such a store would stall the next look
        row_probs[i] = _sum(row_probs[i], weight, probs[j], bf16, scratch)
        n = max(n, i + 1)
    return n


@numba.njit(cache=True, nogil=True)
def _put_in_order(ids, probs, size, to_ids, to_probs, start):  # type: ignore[no-untyped-def]
    """Put each entry where as many come first as are likelier, or as likely with a lower id."""
    for i in range(size):
        token, mass, place = ids[i], probs[i], start
        equal = 0
        for j in range(size):
            place += probs[j] > mass
            equal += probs[j] == mass
        if equal > 1:
            for j in range(size):
                place += (probs[j] == mass) & (ids[j] < token)
        to_ids[place], to_probs[place] = token, mass


@numba.njit(cache=True, nogil=True)
def _sum(before, weight, prob, bf16, scratch):  # type: ignore[no-untyped-def]
    if bf16:
        return _bf16(before + _bf16(weight * prob, scratch), scratch)
    return before + weight * prob


@numba.njit(cache=True, nogil=True)
def _table(offsets_ST):  # type: ignore[no-untyped-def]
    """Make a hash table at least twice as large as any row; a place belongs to the row that last wrote there."""
    widest, size = 0, 64
    for t in range(offsets_ST.shape[1] - 1):
        width = 0
        for s in range(len(offsets_ST)):
            width += offsets_ST[s, t + 1] - offsets_ST[s, t]
        widest = max(widest, width)
    while size < 2 * widest:
        size *= 2
    return np.full(size, -1, np.int64), np.zeros(size, np.int64)


@numba.njit(cache=True, nogil=True)
def _place(rows, slots, t, token, out_ids, n):  # type: ignore[no-untyped-def]
    """Return where a token of row t stands among the output, `n` if it is new."""
    last = len(rows) - 1
    place = (token * 40503) & last
    while rows[place] == t:
        if out_ids[slots[place]] == token:
            return slots[place]
        place = (place + 1) & last
    rows[place], slots[place] = t, n
    return n


@numba.njit(cache=True, nogil=True)
def _sort(ids, probs, start, stop):  # type: ignore[no-untyped-def]
    """Order one row by falling probability, then rising id, in place."""
    for gap in GAPS:
        if 3 * gap > stop - start and gap > 1:
            continue
        for i in range(start + gap, stop):
            token, mass = ids[i], probs[i]
            j = i
            while j >= start + gap and (probs[j - gap] < mass or (probs[j - gap] == mass and ids[j - gap] > token)):
                ids[j], probs[j] = ids[j - gap], probs[j - gap]
                j -= gap
            ids[j], probs[j] = token, mass


@numba.njit(cache=True, nogil=True)
def _bf16(value, scratch):  # type: ignore[no-untyped-def]
    """Round to bfloat16 by way of float32; `scratch` is one float32, and its bits."""
    single, bits = scratch
    single[0] = value
    bits[0] = (bits[0] + np.uint32(0x7FFF) + ((bits[0] >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.float64(single[0])
