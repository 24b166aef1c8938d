"""Which positions of a tokenised chunk have a distribution.

Position p has consumed p text tokens and predicts the next one. With a start token L text tokens have L
distributions, without one L-1; a document's last chunk may have one more, which predicts the end token.
"""

import numpy as np
from numpy.typing import NDArray


def positions(length: int, *, start: bool, end: bool) -> tuple[int, int]:
    """Return (first position, number of positions) of a chunk of `length` text tokens; an empty chunk has none."""
    first = 0 if start else 1
    if length == 0:
        return first, 0
    return first, length - first + int(end)


def inputs_and_labels(
    ids: NDArray[np.int32], *, start: int | None, end: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return what a model reads and what follows at each position, both int32 [P].

    `start` and `end` are the token ids put around the text, None where there is none.
    """
    _, count = positions(len(ids), start=start is not None, end=end is not None)
    whole = np.concatenate([[start] if start is not None else [], ids, [end] if end is not None else []])
    whole = whole.astype(np.int32)
    if count == 0:
        return whole[:0], whole[:0]
    return whole[:count], whole[1 : count + 1]


def consumed_bytes(ends: NDArray[np.integer], first: int, count: int) -> NDArray[np.int64]:
    """Return the byte at which the text consumed by each position ends, int64 [P]; -1 where it is not known."""
    before = np.concatenate([[0], ends]).astype(np.int64)
    return before[first : first + count]
