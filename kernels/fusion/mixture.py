"""The weighted sum of sparse distributions, which every mixing rule ends in.

How left-out mass is shared: a source's left-out mass stays left out, times its weight, also for tokens that another
source keeps; nothing is guessed about it. So the fused row's left-out mass is the weighted mean of the sources'.
"""

# legend: S sources, T positions, N entries of all sources

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.bfloat16 import Precision, round_bf16
from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.merging import merge_rows

TILE = 4096  # positions whose ids and probabilities stay in the cache


def mixture(
    sources: Sequence[Distributions], weights_ST: NDArray[np.float64], precision: Precision = "full"
) -> Distributions:
    """Return sum_s weights[s, t] * sources[s][t] for every position t; best first, ties by lowest id.

    Where a source does not serve a position, the weights of those that do are scaled up to their former sum, so a
    served position keeps total weight. Probabilities are float32 and added up one source after the other (no library is
    asked for a sum, so the bits are the same everywhere); with
    `precision` bf16, products and sums are rounded to bfloat16 as the published code's are.
    """
    room, bf16 = sum(len(source.ids) for source in sources), precision == "bf16"
    ids, logprobs = np.empty(room, np.int32), np.empty(room, np.float32)  # pages never touched cost nothing
    offsets, mass = np.zeros(len(sources[0]) + 1, np.int64), np.zeros(len(sources[0]), np.float64)
    n = 0
    for start in range(0, len(mass), TILE):
        tile = slice(start, min(start + TILE, len(mass)))
        parts = [source.take(tile.start, tile.stop) for source in sources]
        probs = merge_rows(
            *_entries(parts, bf16), np.stack([part.mass for part in parts]), weights_ST[:, tile], bf16, n,
            offsets[start : tile.stop + 1], ids, mass[tile],
        )  # fmt: skip
        np.log(probs, out=logprobs[n : n + len(probs)], dtype=np.float64, casting="same_kind")
        n += len(probs)
    return Distributions(offsets, ids[:n], logprobs[:n], mass)


def _entries(
    sources: Sequence[Distributions], bf16: bool
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Put the sources after one another: offsets [S, T+1] into ids and probabilities [N]."""
    bases = np.cumsum([0, *(len(source.ids) for source in sources)])
    offsets_ST = np.stack([source.offsets + base for source, base in zip(sources, bases, strict=False)])
    ids, probs = np.empty(bases[-1], np.int32), np.empty(bases[-1], np.float32)
    for source, first, stop in zip(sources, bases[:-1], bases[1:], strict=True):
        ids[first:stop] = source.ids
        # By way of float64: what float32 says differs from one kind of processor to another, and bytes must not.
        if bf16:
            probs[first:stop] = round_bf16(np.exp(source.logprobs, dtype=np.float64))
        else:
            np.exp(source.logprobs, out=probs[first:stop], dtype=np.float64, casting="same_kind")
    return offsets_ST, ids, probs
