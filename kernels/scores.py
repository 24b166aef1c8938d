"""How well each source predicts a text, over identical bytes, so that a finer tokenizer does not win by counting.

Sources cut a text differently; what they can be compared on lies between *shared boundaries*, bytes at which a token
of every source ends (or its first token begins). A *step* is the text from one shared boundary to the next.
"""

# legend: C chunks, N tokens, B boundaries, S sources, T target positions

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


class Scored(NamedTuple):
    """One source's text tokens in one chunk that have a probability: the bytes each begins and ends at, and -log p.

    Start and end tokens are left out: they are no text. A byte that is not known is -1; known ones never fall.
    """

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    nats: NDArray[np.float64]


class ScoredChunks(NamedTuple):
    """The same for C chunks after one another; a token begins where the one before it ends."""

    offsets: NDArray[np.int64]  # [C+1]
    begin: NDArray[np.int64]  # [C] byte at which the first token begins
    ends: NDArray[np.int64]  # [N]
    nats: NDArray[np.float64]  # [N]


class SharedSteps(NamedTuple):
    """The shared boundaries of each chunk, and what each source pays from the one before to each of them."""

    offsets: NDArray[np.int64]  # [C+1]
    bytes: NDArray[np.int64]  # [B] rising within a chunk
    nats: NDArray[np.float64]  # [S, B], 0 at the first boundary of a chunk

    def totals(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return each source's nats [S, C] over all steps of each chunk, and how many bytes [C] these are."""
        found: tuple[NDArray[np.float64], NDArray[np.int64]] = _totals(self.offsets, self.bytes, self.nats)
        return found


def nats_over_identical_bytes(sources: Sequence[Scored]) -> tuple[NDArray[np.float64], int]:
    """Return each source's nats [S] on the bytes that all of them predict in one chunk, and how many bytes that is.

    A source without a start token does not predict its first token; one with a short context stops early. The span
    runs from the first to the last byte boundary that every source shares.
    """
    begins = [source.begins[:1] if len(source.begins) else np.array([-1]) for source in sources]
    chunks = [
        ScoredChunks(np.array([0, len(source.ends)]), begin.astype(np.int64), source.ends, source.nats)
        for source, begin in zip(sources, begins, strict=True)
    ]
    nats_SC, bytes_C = shared_steps(chunks).totals()
    return nats_SC[:, 0], int(bytes_C[0])


def shared_steps(sources: Sequence[ScoredChunks], also: ScoredChunks | None = None) -> SharedSteps:
    """Find the boundaries that all sources share (and `also`, whose nats do not matter), and the steps' nats."""
    offsets, found = _boundaries(*sources[0][:3])
    for other in [*sources[1:], *([also] if also else [])]:
        offsets, found = _shared(offsets, found, *_boundaries(*other[:3]))
    nats_SB = np.stack([_nats_by_step(offsets, found, *source) for source in sources])
    return SharedSteps(offsets, found, nats_SB)


def byte_boundaries(chunks: ScoredChunks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each chunk's boundaries begin [C+1], and these bytes: where its text begins and its tokens end."""
    found: tuple[NDArray[np.int64], NDArray[np.int64]] = _boundaries(*chunks[:3])
    return found


def nats_by_step(offsets: NDArray[np.int64], found: NDArray[np.int64], source: ScoredChunks) -> NDArray[np.float64]:
    """Return a source's nats [B] from one boundary to the next; `found` [B] are boundaries of its own, by chunk."""
    nats_B: NDArray[np.float64] = _nats_by_step(offsets, found, *source)
    return nats_B


def scored_chunks(
    ends: NDArray[np.int32],
    end_offsets: NDArray[np.int64],
    gold_logprobs: NDArray[np.float32],
    gold_offsets: NDArray[np.int64],
    first: NDArray[np.int32],
) -> ScoredChunks:
    """Return the text tokens that a source scored in C chunks, from the columns of its shards.

    `first` [C] is the first position that has a distribution: the token there is the first that was scored. What
    stands past the last text token (the end token, the position after it) is left out.
    """
    return ScoredChunks(*_scored(ends, end_offsets, gold_logprobs, gold_offsets, first))


@numba.njit(cache=True, nogil=True)
def _scored(ends, end_offsets, gold, gold_offsets, first_C):  # type: ignore[no-untyped-def]
    chunks = len(first_C)
    offsets = np.zeros(chunks + 1, np.int64)
    begin_C = np.full(chunks, -1, np.int64)
    out_ends, nats = np.empty(len(ends), np.int64), np.empty(len(ends), np.float64)
    n = 0
    for c in range(chunks):
        begin = end_offsets[c] + first_C[c]
        count = max(min(gold_offsets[c + 1] - gold_offsets[c], end_offsets[c + 1] - begin), 0)
        if count > 0:
            begin_C[c] = ends[begin - 1] if first_C[c] > 0 else 0
        for i in range(count):
            out_ends[n + i] = ends[begin + i]
            nats[n + i] = -np.float64(gold[gold_offsets[c] + i])
        n += count
        offsets[c + 1] = n
    return offsets, begin_C, out_ends[:n].copy(), nats[:n].copy()


@numba.njit(cache=True, nogil=True)
def _boundaries(offsets, begin_C, ends):  # type: ignore[no-untyped-def]
    out_offsets = np.zeros(len(offsets), np.int64)
    out = np.empty(len(ends) + len(begin_C), np.int64)
    n = 0
    for c in range(len(begin_C)):
        last = -1
        if offsets[c + 1] > offsets[c] and begin_C[c] >= 0:
            last = out[n] = begin_C[c]
            n += 1
        for i in range(offsets[c], offsets[c + 1]):
            if ends[i] > last:
                last = out[n] = ends[i]
                n += 1
        out_offsets[c + 1] = n
    return out_offsets, out[:n].copy()


@numba.njit(cache=True, nogil=True)
def _shared(offsets, left, other_offsets, right):  # type: ignore[no-untyped-def]
    out_offsets, out = np.zeros(len(offsets), np.int64), np.empty(min(len(left), len(right)), np.int64)
    n = 0
    for c in range(len(offsets) - 1):
        j = other_offsets[c]
        for i in range(offsets[c], offsets[c + 1]):
            while j < other_offsets[c + 1] and right[j] < left[i]:
                j += 1
            if j < other_offsets[c + 1] and right[j] == left[i]:
                out[n] = left[i]
                n += 1
        out_offsets[c + 1] = n
    return out_offsets, out[:n].copy()


@numba.njit(cache=True, nogil=True)
def _nats_by_step(offsets, found, token_offsets, begin_C, ends, nats):  # type: ignore[no-untyped-def]
    """Give each token to the step in which it ends; one without text (a lone prefix) to the step that it closes."""
    out_B = np.zeros(len(found), np.float64)
    for c in range(len(begin_C)):
        low, k = offsets[c], offsets[c + 1] - 1
        if k <= low:
            continue
        first = token_offsets[c]
        if begin_C[c] != found[low]:
            while ends[first] != found[low]:
                first += 1
            first += 1
        step = low
        for i in range(token_offsets[c + 1] - 1, first - 1, -1):
            if k > low and ends[i] == found[k]:
                step, k = k, k - 1
            if step > low:
                out_B[step] += nats[i]
    return out_B


@numba.njit(cache=True, nogil=True)
def _totals(offsets, found, nats_SB):  # type: ignore[no-untyped-def]
    nats_SC, bytes_C = np.zeros((len(nats_SB), len(offsets) - 1)), np.zeros(len(offsets) - 1, np.int64)
    for c in range(len(bytes_C)):
        if offsets[c + 1] > offsets[c]:
            bytes_C[c] = found[offsets[c + 1] - 1] - found[offsets[c]]
        for s in range(len(nats_SB)):
            for b in range(offsets[c], offsets[c + 1]):
                nats_SC[s, c] += nats_SB[s, b]
    return nats_SC, bytes_C
