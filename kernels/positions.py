"""Which positions of a tokenised chunk have a distribution.

Position p has consumed p text tokens and predicts the next one. With a start token L text tokens have L
distributions, without one L-1; a document's last chunk may have one more, which predicts the end token.
"""

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -100


def positions(length: int, *, start: bool, end: bool, past_end: bool = False) -> tuple[int, int]:
    """Return (first position, number of positions) of a chunk of `length` text tokens; an empty chunk has none.

    With `past_end` there is one more after the end token, whose label is unknown: the published code keeps it, since
    in its packed blocks another document follows there.
    """
    first = 0 if start else 1
    if length == 0:
        return first, 0
    return first, length - first + int(end) + int(end and past_end)


def inputs_and_labels(
    ids: NDArray[np.int32], *, start: int | None, end: int | None, past_end: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return what a model reads and what follows at each position, both int32 [P]; NO_LABEL past the end token.

    `start` and `end` are the token ids put around the text, None where there is none.
    """
    _, count = positions(len(ids), start=start is not None, end=end is not None, past_end=past_end)
    whole = np.concatenate([[start] if start is not None else [], ids, [end] if end is not None else [], [NO_LABEL]])
    whole = whole.astype(np.int32)
    return whole[:count], whole[1 : count + 1] if count else whole[:0]


def consumed_bytes(ends: NDArray[np.integer], first: int, count: int) -> NDArray[np.int64]:
    """Return the byte at which the text consumed by each position ends, int64 [P]; -1 where it is not known.

    The end token counts as one byte more, so that the position past it is like no other.
    """
    last = ends[-1:].astype(np.int64)
    before = np.concatenate([[0], ends, np.where(last >= 0, last + 1, -1)]).astype(np.int64)
    return before[first : first + count]
