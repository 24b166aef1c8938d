"""The published code's arithmetic: everything between the stored logits and the loss in bfloat16, bit for bit.

Sums inside a softmax are torch's own, so it computes those; rounding elsewhere is exact in NumPy.
"""

# legend: S sources, T positions, R rows of equal length, K entries

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from logitfuse.kernels.fusion.distributions import Distributions, chosen_rows
from logitfuse.kernels.sparse import row_sums

Precision = Literal["full", "bf16"]


def round_bf16(values: NDArray) -> NDArray[np.float32]:
    """Round to what bfloat16 can hold (to nearest, ties to even, via float32 as torch does), as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), np.float32(np.nan), rounded.view(np.float32))


def softmax_rows(
    counts: NDArray[np.integer], ids: NDArray[np.int32], logits: NDArray[np.float32], temperature: float
) -> Distributions:
    """Return softmax(logits / temperature) of each row over its own entries, all in bfloat16.

    `counts` [T] entries of `ids` and `logits` belong to each row. Entries that round to zero are dropped, as are rows
    without entries; `mass` is what the rounded entries add up to, which need not be 1.
    """
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    probs = np.zeros(len(logits), np.float32)
    for count in np.unique(counts[counts > 0]):
        entries_RK = offsets[:-1][counts == count][:, None] + np.arange(count)
        logits_RK = torch.from_numpy(logits[entries_RK].astype(np.float32)).bfloat16()
        probs[entries_RK] = torch.softmax(logits_RK / temperature, -1).float().numpy()
    kept = probs > 0
    offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
    return Distributions(
        offsets,
        ids[kept],
        np.log(probs[kept].astype(np.float64)).astype(np.float32),
        row_sums(offsets, probs[kept].astype(np.float64)),
    )


def own_where_empty(source: Distributions, own: Distributions) -> Distributions:
    """Give rows in which a source holds nothing the target's own row (EM, where no kept piece is known to it)."""
    return chosen_rows([source, own], np.where(source.counts > 0, 0, 1).astype(np.int32))


def rewards(scores_ST: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return 1 / exp(score) in bfloat16 [S, T], 0 where a source has no score."""
    found: NDArray[np.float32] = (1 / torch.exp(torch.from_numpy(scores_ST).bfloat16())).float().numpy()
    return found


def softmax_of_rewards(rewards_ST: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the softmax over sources in bfloat16 [S, T]; a source with reward -inf gets nothing."""
    weights_TS = torch.softmax(torch.from_numpy(rewards_ST.T.copy()).bfloat16(), 1)
    return np.nan_to_num(weights_TS.double().numpy().T, nan=0.0)
