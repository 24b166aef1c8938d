"""One merged row: tokens added to it, and put in order.

A row has its room in long arrays, from `row` on. It is indexed without a sign, which spares the compiler Python's
negative indices: it then makes vectors.
"""

import numba
import numpy as np

GAPS = (701, 301, 132, 57, 23, 10, 4, 1)  # of Shell's sort: wide rows are made of sorted runs


@numba.njit(cache=True, nogil=True)
def add(ids, probs, first, stop, weight, row_ids, row_probs, row, size, bf16, scratch):  # type: ignore[no-untyped-def]
    """Add one source's tokens, which differ from each other, to a row of `size` tokens; return its new size.

    `row_probs` is 0 from `size` on. No branch depends on the tokens: a wrong guess costs more than the scan.
    """
    n = size
    for j in range(first, stop):
        token, place = ids[j], np.int32(0)  # counted from 1; at most one token is the same
        for i in range(np.uint64(size)):
            place = np.int32(place + (np.int32(i + np.uint64(1)) if row_ids[row + i] == token else np.int32(0)))
        at = row + np.uint64(place - 1 if place > 0 else n)
        row_ids[row + np.uint64(n)] = token
        row_probs[at] = _sum(row_probs[at], weight, probs[j], bf16, scratch)
        n += place == 0
    return n


@numba.njit(cache=True, nogil=True)
def put_in_order(ids, probs, row, size, ranks, to_ids, to_probs, at, probs_at):  # type: ignore[no-untyped-def]
    """Write a narrow row best first; return False if two probabilities are the same."""
    padded = np.uint64((size + 15) & -16)
    for i in range(np.uint64(size), padded):
        probs[row + i] = -1.0
    ranks[:padded] = 0
    for i in range(row, row + np.uint64(size), np.uint64(4)):
        first, second, third, fourth = (
            probs[i],
            probs[i + np.uint64(1)],
            probs[i + np.uint64(2)],
            probs[i + np.uint64(3)],
        )
        for j in range(padded):
            than = probs[row + j]
            likelier = np.int32(first > than) + np.int32(second > than) + np.int32(third > than)
            ranks[j] += np.int32(likelier + np.int32(fourth > than))
    total = 0
    for i in range(np.uint64(size)):
        to_ids[at + ranks[i]], to_probs[probs_at + ranks[i]] = ids[row + i], probs[row + i]
        total += ranks[i]
    return total == size * (size - 1) // 2


@numba.njit(cache=True, nogil=True)
def sort_row(row_ids, row_probs, row, size, to_ids, to_probs, at, probs_at):  # type: ignore[no-untyped-def]
    """Write a row best first, ties by lowest id."""
    ids, probs = row_ids[row : row + np.uint64(size)], row_probs[row : row + np.uint64(size)]
    for gap in GAPS:
        if 3 * gap > size and gap > 1:
            continue
        for i in range(gap, size):
            token, mass = ids[i], probs[i]
            j = i
            while j >= gap and (probs[j - gap] < mass or (probs[j - gap] == mass and ids[j - gap] > token)):
                ids[j], probs[j] = ids[j - gap], probs[j - gap]
                j -= gap
            ids[j], probs[j] = token, mass
    to_ids[at : at + size], to_probs[probs_at : probs_at + size] = ids, probs


@numba.njit(cache=True, nogil=True)
def _sum(before, weight, prob, bf16, scratch):  # type: ignore[no-untyped-def]
    if bf16:
        return _bf16(before + _bf16(weight * prob, scratch), scratch)
    return before + weight * prob


@numba.njit(cache=True, nogil=True)
def table_for(width):  # type: ignore[no-untyped-def]
    """Make a hash table at least twice as large as any row; a place belongs to the row that last wrote there."""
    size = 64
    while size < 2 * width:
        size *= 2
    return np.full(size, -1, np.int64), np.zeros(size, np.int64)


@numba.njit(cache=True, nogil=True)
def add_by_table(  # type: ignore[no-untyped-def]
    ids, probs, first, stop, weight, row_ids, row_probs, row, size, table, places, t, bf16, scratch
):
    """Add one source's tokens to the wide row t; return its new size."""
    last = len(table) - 1
    for j in range(first, stop):
        slot = (ids[j] * 40503) & last
        while table[slot] == t and row_ids[row + np.uint64(places[slot])] != ids[j]:
            slot = (slot + 1) & last
        if table[slot] != t:
            table[slot], places[slot], row_ids[row + np.uint64(size)] = t, size, ids[j]
            size += 1
        at = row + np.uint64(places[slot])
        row_probs[at] = _sum(row_probs[at], weight, probs[j], bf16, scratch)
    return size


@numba.njit(cache=True, nogil=True)
def _bf16(value, scratch):  # type: ignore[no-untyped-def]
    """Round to bfloat16 by way of float32; `scratch` is one float32, and its bits."""
    single, bits = scratch
    single[0] = value
    bits[0] = (bits[0] + np.uint32(0x7FFF) + ((bits[0] >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return single[0]
