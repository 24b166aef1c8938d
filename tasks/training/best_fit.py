"""Best-fit packing: sequences into as few rows of bounded length as a simple rule finds."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Put sequences into rows of at most `budget` tokens, each into the fullest row that still takes it.

    Returns the sequences' numbers by row. They are taken longest first, equal ones in the order given; of equally
    full rows the oldest is used. A sequence longer than the budget has a row of its own.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # what each row can still take and its number, ascending
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        length = lengths[number]
        place = bisect_left(free, (length, -1))
        if place == len(free):
            rows.append([])
            left, row = budget, len(rows) - 1
        else:
            left, row = free.pop(place)
        rows[row].append(number)
        insort(free, (left - length, row))
    return rows
