"""What a fusion rule may judge sources by."""

# legend: S sources, T target positions, B boundaries

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.scores import SharedSteps


class Steps(NamedTuple):
    """What became known about the sources on the way to each target position: nothing that lies after it.

    `nats[s, t]` is what source s paid for the text between the last shared boundary that position t-1 had consumed
    and the last that position t has; `bytes[t]` is how much text that is, 0 where no boundary was passed.
    """

    nats: NDArray[np.float64]  # [S, T]
    bytes: NDArray[np.int64]  # [T]
    begins: NDArray[np.bool_]  # [T] a document begins here: what was known before is of another text

    def take(self, start: int, stop: int) -> "Steps":
        """Return positions start to stop."""
        return Steps(self.nats[:, start:stop], self.bytes[start:stop], self.begins[start:stop])


def _no_steps() -> Steps:
    raise AssertionError("this evidence was made without steps")


@dataclass(frozen=True)
class Evidence:
    """Scores of S sources at T positions, the user's weights of the sources, and, when asked for, causal steps."""

    scores: NDArray[np.float64]  # [S, T] lower is better, +inf where a source has none
    priors: NDArray[np.float64]  # [S] weight of each source before anything is known, at least 0
    target: int | None = None  # which source is the target model itself
    steps: Callable[[], Steps] = _no_steps

    @staticmethod
    def equal(scores_ST: NDArray[np.float64]) -> "Evidence":
        """Return evidence of these scores, with all sources of weight 1."""
        return Evidence(scores_ST, np.ones(len(scores_ST)))


def causal_steps(
    shared: SharedSteps,
    position_offsets: NDArray[np.int64],
    consumed_T: NDArray[np.int64],
    document_begins_C: NDArray[np.bool_],
) -> Steps:
    """Give each shared boundary to the first target position that has consumed it.

    `consumed_T` holds the byte that each position has consumed, -1 where unknown (it then learns nothing new). Text
    between the last position of a chunk and the chunk's end counts at the document's next position.
    """
    return Steps(*_causal(*shared, position_offsets, consumed_T, document_begins_C))


def span_scores(
    shared: SharedSteps,
    position_offsets: NDArray[np.int64],
    consumed_T: NDArray[np.int64],
    otherwise_ST: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the sources' nats per byte [S, T] on the step that begins at or before what each position has consumed.

    This looks at the very text that the position predicts. Outside the shared steps `otherwise_ST` stands.
    """
    scores_ST = otherwise_ST.copy()
    _spans(*shared, position_offsets, consumed_T, scores_ST)
    return scores_ST


@numba.njit(cache=True, nogil=True)
def _causal(offsets, found, nats_SB, position_offsets, consumed_T, document_begins_C):  # type: ignore[no-untyped-def]
    sources, positions = len(nats_SB), len(consumed_T)
    nats_ST, bytes_T, begins_T = (
        np.zeros((sources, positions)),
        np.zeros(positions, np.int64),
        np.zeros(positions, np.bool_),
    )
    waiting_S, waiting_bytes, fresh = np.zeros(sources), 0, True
    for c in range(len(offsets) - 1):
        if document_begins_C[c]:
            waiting_S[:], waiting_bytes, fresh = 0.0, 0, True
        b = offsets[c]
        for t in range(position_offsets[c], position_offsets[c + 1] + 1):
            at_end = t == position_offsets[c + 1]  # what no position of this chunk has consumed waits
            while b < offsets[c + 1] and (at_end or found[b] <= consumed_T[t]):
                if b > offsets[c]:
                    waiting_S += nats_SB[:, b]
                    waiting_bytes += found[b] - found[b - 1]
                b += 1
            if not at_end:
                nats_ST[:, t], bytes_T[t], begins_T[t] = waiting_S, waiting_bytes, fresh
                waiting_S[:], waiting_bytes, fresh = 0.0, 0, False
    return nats_ST, bytes_T, begins_T


@numba.njit(cache=True, nogil=True)
def _spans(offsets, found, nats_SB, position_offsets, consumed_T, scores_ST):  # type: ignore[no-untyped-def]
    for c in range(len(offsets) - 1):
        b, stop = offsets[c], offsets[c + 1]  # b: first boundary past what was consumed
        for t in range(position_offsets[c], position_offsets[c + 1]):
            while b < stop and found[b] <= consumed_T[t]:
                b += 1
            if offsets[c] < b < stop:
                for s in range(len(nats_SB)):
                    scores_ST[s, t] = nats_SB[s, b] / (found[b] - found[b - 1])
