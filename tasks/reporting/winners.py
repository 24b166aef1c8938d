"""Who won where: the positions at which each source counts most in the fused targets."""

# legend: S sources, T positions of a row, P places

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The first positions of each place: how many tokens of its row had been read there.
PLACES = (0, 8, 32, 128, 512, 2048)


class Winners:
    """Counts positions by their winner, by domain and by how much of the row had been read.

    A row is what was read in one piece: a chunk of a document, or a packed block.
    """

    def __init__(self, labels: list[str]) -> None:
        self._labels = labels
        self._domains: dict[str, NDArray[np.int64]] = defaultdict(self._none)
        self._places = [self._none() for _ in PLACES]

    def _none(self) -> NDArray[np.int64]:
        return np.zeros(len(self._labels) + 1, np.int64)  # the first count is of positions that nobody serves

    def add(self, domain: str, winner_T: NDArray[np.int32]) -> None:
        """Count a row; -1 is nobody."""
        for counts, first, end in zip(self._places, PLACES, (*PLACES[1:], None), strict=True):
            found = np.bincount(winner_T[first:end] + 1, minlength=len(counts))
            counts += found
            self._domains[domain] += found

    def facts(self) -> dict[str, Any]:
        """Return the counts by domain, and by place (from which position, up to which) where there are any."""
        ends = (*(first - 1 for first in PLACES[1:]), None)
        return {
            "by_domain": {domain: self._told(self._domains[domain]) for domain in sorted(self._domains)},
            "by_place": [
                {"from": first, "to": end, **self._told(counts)}
                for first, end, counts in zip(PLACES, ends, self._places, strict=True)
                if counts.any()
            ],
        }

    def _told(self, counts: NDArray[np.int64]) -> dict[str, Any]:
        return {
            "positions": int(counts.sum()),
            "unserved": int(counts[0]),
            "won": dict(zip(self._labels, counts[1:].tolist(), strict=True)),
        }
