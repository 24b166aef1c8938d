"""How fast work goes and how long it will last, for the terminal, the log and Prefect alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

HALF_LIFE = 60.0  # seconds until a measured second counts half
FIRST_REPORTS = 0.5  # seconds from the first report in which others may be first ones too
SETTLED = 3.0  # seconds of measuring before a rate of late is worth more than the mean so far
Clock = Callable[[], float]


class Rate:
    """Amount per second of late: an average that forgets; its time starts when it is made. Not thread-safe.

    The first reports are left out as soon as there are others: they waited for weights, caches and compilers too, and
    where several units work at once, each brings its first when it has worked as long as the others.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._amount = 0.0
        self._first: float | None = None
        self._recent = self._seconds = 0.0  # both fade, so their ratio is a mean from the first second on

    def add(self, amount: float) -> None:
        """Count work that was done since the last call; what is not more than nothing is ignored."""
        if amount <= 0:
            return
        now = self._clock()
        passed, self._last = now - self._last, now
        self._amount += amount
        self._first = now if self._first is None else self._first
        if now - self._first >= FIRST_REPORTS:
            fading = 0.5 ** (passed / HALF_LIFE)
            self._recent = self._recent * fading + amount
            self._seconds = self._seconds * fading + passed

    @property
    def per_second(self) -> float | None:
        """The rate as of the last report; None before it can be known."""
        if self._seconds >= SETTLED:
            return self._recent / self._seconds
        passed = self._last - self._began
        return self._amount / passed if passed > 0 and self._amount > 0 else None

    def seconds_for(self, amount: float) -> float | None:
        """Return how long an amount of work will take; None before the rate can be known."""
        return None if self.per_second is None else amount / self.per_second


@dataclass(frozen=True)
class Standing:
    """Where some work stands: `done` of `total` (None: unknown) in `measure`; rate and time left where known."""

    measure: str
    done: float
    total: float | None
    per_second: float | None = None
    seconds_left: float | None = None

    @property
    def percent(self) -> float | None:
        """Share of all work that is done, what stood before included; 100 only at the end."""
        if self.total is None:
            return None
        return 100.0 if self.done >= self.total else 100.0 * self.done / self.total

    @property
    def amount(self) -> str:
        """`1.20 M of 2.65 G tokens`."""
        if self.total is None:
            return quantity(self.done, self.measure)
        return f"{scaled(self.done)} of {quantity(self.total, self.measure)}"

    @property
    def rate(self) -> str:
        """`12,345 tokens/s`, empty while it is not known."""
        return "" if self.per_second is None else f"{quantity(self.per_second, self.measure)}/s"

    @property
    def left(self) -> str:
        """`2:10:05 left`, empty at the end and while it is not known."""
        return f"{duration(self.seconds_left)} left" if self.seconds_left else ""

    def __str__(self) -> str:
        share = "" if self.percent is None else f"{int(self.percent)}%"
        return ", ".join(part for part in (share, self.amount, self.rate, self.left) if part)


def quantity(value: float, measure: str) -> str:
    """Write an amount of something: `12,345 tokens`, `1.20 M tokens`, `3.40 GB`."""
    if measure != "bytes":
        return f"{scaled(value)} {measure}"
    number = scaled(value)
    return f"{number}B" if number[-1].isalpha() else f"{number} B"


def scaled(value: float) -> str:
    """Write a number with three digits or, below 100,000, as it is: `0.25`, `12,345`, `1.20 M`."""
    if value < 99_999.5:
        return f"{value:,.0f}" if value >= 9.95 or value == int(value) else f"{value:.2g}"
    prefix = int(math.log10(value * 1.0005) // 3)  # 999.5 k is written 1.00 M
    number = value / 1000**prefix
    digits = 2 - (number >= 9.995) - (number >= 99.95)
    return f"{number:.{digits}f} {' kMGTPE'[prefix]}"


def duration(seconds: float) -> str:
    """Write a time as `0:42`, `12:05`, `2:10:05` or `3 d 02:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
