"""Two-level bootstrap: what would come out with other seeds and on other documents.

Every seed's model scores the same documents, so seeds and documents are crossed and each is drawn by itself (the
pigeonhole bootstrap of Owen, 2007, which errs on the wide side).
"""

# legend: S seeds, D documents, R draws, M models

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.bootstrap import Interval

DRAWS = 10_000


class Draws(NamedTuple):
    """How often each seed and each document is taken in each draw."""

    seeds_RS: NDArray[np.float64]  # shares of a draw; a row sums to 1
    documents_RD: NDArray[np.float64]


def draw(seeds: int, documents: int, *, draws: int = DRAWS, seed: int = 0) -> Draws:
    """Draw seeds and documents with replacement; the same numbers give the same draws, so models stay paired.

    S - 1 of the S seeds are taken: as many as S would make the variance of a mean over so few too small, by
    (S - 1) / S (Rao and Wu, 1988). Of documents there are enough.
    """
    if seeds < 1 or documents < 1:
        raise ValueError(f"nothing to draw from: {seeds} seeds, {documents} documents")
    random = np.random.default_rng(seed)
    taken = max(seeds - 1, 1)
    seeds_RS = random.multinomial(taken, np.full(seeds, 1 / seeds), size=draws) / taken
    documents_RD = random.multinomial(documents, np.full(documents, 1 / documents), size=draws).astype(np.float64)
    return Draws(seeds_RS, documents_RD)


def drawn_ratios(nats_SD: NDArray[np.float64], bytes_D: NDArray[np.float64], draws: Draws) -> NDArray[np.float64]:
    """Return nats per byte in every draw, [R]: means over the drawn seeds, sums over the drawn documents."""
    nats_RD = draws.seeds_RS @ nats_SD
    bytes_R = draws.documents_RD @ bytes_D
    nats_R = np.einsum("rd,rd->r", nats_RD, draws.documents_RD)
    return np.divide(nats_R, bytes_R, out=np.full(len(bytes_R), np.nan), where=bytes_R > 0)


def two_level_interval(nats_SD: NDArray[np.float64], bytes_D: NDArray[np.float64], draws: Draws) -> Interval:
    """Return nats per byte over all seeds and documents with the 95% percentile interval over the draws."""
    ratios = drawn_ratios(nats_SD, bytes_D, draws)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return Interval(float(nats_SD.mean(axis=0).sum() / bytes_D.sum()), float(low), float(high))


def two_sided(ratios_R: NDArray[np.float64]) -> float:
    """Return how often, at most, draws lie on the other side of zero, twice: a p-value, never below 2 / (R + 1)."""
    ratios_R = ratios_R[~np.isnan(ratios_R)]
    beyond = min(int((ratios_R <= 0).sum()), int((ratios_R >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(ratios_R) + 1))
