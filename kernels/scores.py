"""How well each source predicts a text, over identical bytes, so that a finer tokenizer does not win by counting."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scored(NamedTuple):
    """One source's text tokens in one chunk that have a probability: the bytes each begins and ends at, and -log p.

    Start and end tokens are left out: they are no text.
    """

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    nats: NDArray[np.float64]


def nats_over_identical_bytes(sources: Sequence[Scored]) -> tuple[NDArray[np.float64], int]:
    """Return each source's nats [S] on the bytes that all of them predict, and how many bytes that is.

    A source without a start token does not predict its first token; one with a short context stops early. The span
    runs from the first to the last byte boundary that every source shares.
    """
    span = _shared_span(sources)
    if span is None:
        return np.zeros(len(sources)), 0
    low, high = span
    return np.array([_nats_between(source, low, high) for source in sources], np.float64), high - low


def _nats_between(source: Scored, low: int, high: int) -> float:
    """Sum from the token that begins at `low` to the one that ends at `high`; ends in between may be unknown (-1)."""
    first = int(np.flatnonzero(source.begins == low)[0])
    last = int(np.flatnonzero(source.ends == high)[-1])
    return float(source.nats[first : last + 1].sum())


def _shared_span(sources: Sequence[Scored]) -> tuple[int, int] | None:
    if any(len(source.ends) == 0 for source in sources):
        return None
    shared = _boundaries(sources[0])
    for source in sources[1:]:
        shared = np.intersect1d(shared, _boundaries(source), assume_unique=True)
    if len(shared) < 2:
        return None
    return int(shared[0]), int(shared[-1])


def _boundaries(source: Scored) -> NDArray[np.int64]:
    known = np.concatenate([source.begins[:1], source.ends])
    return np.unique(known[known >= 0])
