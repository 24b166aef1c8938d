"""The paper's alignment (§3.2 and its published code): dynamic time warping over the tokens' spelling."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.alignment import ALIGNMENTS, Side, VocabularyPair
from logitfuse.kernels.alignment.warping import Costs, matched_sources


@ALIGNMENTS("dtw")
def dtw(
    source: Side, target: Side, pair: VocabularyPair, *, first_marker: Literal["auto", "yes", "no"] = "auto"
) -> NDArray[np.int64]:
    """Serve a target token's position by that of the one source token it is matched with, if both are the same piece.

    They are the same if they are spelled alike, or if the vocabulary map sends the one to the other (MinED; a map
    without edit distances makes this EM). Matched with several source tokens, or with another piece, a position is not
    served. Start tokens serve each other. `first_marker`: at a text's first token, a source piece without a space is
    read with one where the target's has it; `auto` does as the published code, by the source tokenizer's class.
    """
    marks_first = pair.marks_first if first_marker == "auto" else first_marker == "yes"
    serving = np.full(len(target.bytes_P), -1, np.int64)
    for c in range(len(target.read_C)):
        serving_T = serving[target.position_offsets[c] : target.position_offsets[c + 1]]
        captured = int(source.position_offsets[c + 1] - source.position_offsets[c])
        accepted = _accepted(_tokens(source, c), _tokens(target, c), pair, marks_first)
        number_of = np.concatenate([[0], np.where(accepted >= 0, accepted + 1, -1)])  # the source's, by the target's
        length = min(len(serving_T), len(number_of) - target.first)
        number_T = number_of[target.first : target.first + length] - source.first
        there = (number_T >= 0) & (number_T < captured)
        serving_T[:length] = np.where(there, number_T + source.position_offsets[c], -1)
    return serving


def _tokens(side: Side, chunk: int) -> NDArray[np.int32]:
    start = side.token_offsets[chunk]
    return side.tokens[start : start + side.read_C[chunk]]


def _accepted(
    source: NDArray[np.int32], target: NDArray[np.int32], pair: VocabularyPair, marks_first: bool
) -> NDArray[np.int64]:
    """Return for each target token the one source token it is matched with and the same as, -1 where there is none."""
    costs = Costs([pair.source.bare[s] for s in source], [pair.target.bare[t] for t in target])
    first, last = matched_sources(costs)
    alone = np.flatnonzero((first == last) & (first >= 0))
    sources, targets = source[first[alone]], target[alone]
    same = (pair.equal[sources] == targets) | (pair.mapped[sources] == targets)
    if marks_first and len(alone) and alone[0] == 0:
        s, t = sources[0], targets[0]
        if pair.has_marker[t] and pair.lacks_marker[s]:
            same[0] = t in (pair.marked_equal[s], pair.marked_mapped[s])
    accepted = np.full(len(target), -1, np.int64)
    accepted[alone[same]] = first[alone[same]]
    return accepted
