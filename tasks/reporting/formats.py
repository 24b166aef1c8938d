"""Numbers and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

MISSING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Write a number, or a dash where there is none."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def score(value: float | None) -> str:
    """Write a score between 0 and 1 in %."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """Write a difference of scores in percentage points."""
    return MISSING if value is None else f"{100 * value:+.1f}"


def percent(value: float | None) -> str:
    """Write a share as a percentage; only nothing is 0% and only all is 100%."""
    if value is None:
        return MISSING
    if 0 < value < 0.01 or 0.99 < value < 1:
        return f"{min(max(100 * value, 0.1), 99.9):.1f}%"
    return f"{100 * value:.0f}%"


def places(first: int, last: int | None) -> str:
    """Write how many tokens had been read."""
    return f"{first:,} or more" if last is None else f"{first:,} to {last:,}"


def moment(when: float | str) -> str:
    """Write a Unix or an ISO time as everything here shows times: `2026-11-22 13:05 UTC`.

    Raises ValueError, OverflowError or OSError for what is no time.
    """
    made = datetime.fromisoformat(when) if isinstance(when, str) else datetime.fromtimestamp(when, UTC)
    return f"{made.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def size(count: float) -> str:
    """Write bytes for people."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Write a time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"
