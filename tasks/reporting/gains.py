"""A gain in words: by how many percent a loss is lower or higher, to as many digits as its interval warrants."""

from __future__ import annotations

import math
from typing import Any

Gain = dict[str, Any]  # percent, percent_low, percent_high: above 0 the fused model's loss is lower
FEWEST, MOST = 0, 4  # decimals
UNWARRANTED = 2  # decimals of a number without an interval, or whose interval is a point
NO_DIFFERENT = "no different"


def decimals(gain: Gain) -> int:
    """Return how many decimals a gain has: those of its interval's half-width with one digit, with two after a 1.

    More where an interval that does not hold 0 would seem to.
    """
    low, high = gain["percent_low"], gain["percent_high"]
    half = math.nan if low is None or high is None else (high - low) / 2
    if not 0 < half < math.inf:
        return UNWARRANTED
    place = _place(half)
    needed = max(_place(low), _place(high)) if low * high > 0 else FEWEST
    return min(max(place + (half * 10**place < 2), needed, FEWEST), MOST)


def _place(value: float) -> int:
    """Return the decimal place of a number's first digit."""
    return -math.floor(math.log10(abs(value)))


def change(gain: Gain) -> str:
    """Write by how much a loss is lower or higher: `3.4% lower`; `no different` where no warranted digit says so."""
    return changed_by(gain["percent"], decimals(gain))


def against(gain: Gain, other: str) -> str:
    """Write a gain as compared: `3.4% lower than before`, `no different from the control`."""
    return f"{change(gain)} {'from' if change(gain) == NO_DIFFERENT else 'than'} {other}"


def span(gain: Gain) -> str:
    """Write the interval of a gain: `3.0% to 3.7%` where its direction is certain, else with both directions."""
    low, high, digits = gain["percent_low"], gain["percent_high"], decimals(gain)
    if low * high > 0:
        return " to ".join(f"{abs(value):.{digits}f}%" for value in sorted((low, high), key=abs))
    return f"{abs(low):.{digits}f}% higher to {abs(high):.{digits}f}% lower"


def farthest(gain: Gain) -> float:
    """Return the percentage of the interval's end that is farther from 0."""
    return max(abs(gain["percent_low"]), abs(gain["percent_high"]))


def at_most(gain: Gain) -> str:
    """Write that end's size: `0.06%`."""
    return f"{farthest(gain):.{decimals(gain)}f}%"


def changed_by(percent: float, digits: int) -> str:
    """Write by how many percent a loss is lower (above 0) or higher, with so many decimals."""
    shown = f"{abs(percent):.{digits}f}"
    return NO_DIFFERENT if float(shown) == 0 else f"{shown}% {'lower' if percent > 0 else 'higher'}"
