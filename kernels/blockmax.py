"""Exact top-k in two stages: the k blocks of the vocabulary with the largest maxima hold the k likeliest tokens.

legend: T positions, V vocabulary, B blocks, K kept, G gathered

Tokens are ordered by value, equal ones by lowest id; blocks by their maximum, equal ones by lowest number. A token of a
block that is not among the first K blocks comes after the maximum of each of those: a larger value, or an equal one in
a block before it. So it is not among the first K tokens, and no more than K blocks need be looked into.
"""

import torch
from torch import Tensor

BLOCK = 64
_LAST_ID = 2**31 - 1


def block_maxima(values_TV: Tensor) -> Tensor:
    """Return the maximum of every BLOCK tokens [T, B]; the last block may be shorter."""
    T, V = values_TV.shape
    whole = V - V % BLOCK
    maxima_TB = values_TV[:, :whole].reshape(T, whole // BLOCK, BLOCK).amax(-1)
    return maxima_TB if whole == V else torch.cat([maxima_TB, values_TV[:, whole:].amax(-1, keepdim=True)], dim=1)


def topk_of_blocks(values_TV: Tensor, maxima_TB: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values float32 [T, K] and their ids int64 [T, K], best first, equal values by lowest id.

    `maxima_TB` are those of `block_maxima`; k is at most V.
    """
    T, V = values_TV.shape
    every_B = torch.arange(maxima_TB.shape[1], device=maxima_TB.device).expand(T, -1)
    blocks_TK = _first(maxima_TB.float(), every_B, min(k, maxima_TB.shape[1]))
    ids_TG = (blocks_TK[:, :, None] * BLOCK + torch.arange(BLOCK, device=blocks_TK.device)).flatten(1)
    values_TG = values_TV.gather(1, ids_TG.clamp_max(V - 1)).float()
    values_TG = values_TG.masked_fill(ids_TG >= V, -torch.inf)  # as unlikely as can be, and later than any real id
    ids_TK = _first(values_TG, ids_TG, k)
    return values_TV.gather(1, ids_TK).float(), ids_TK


def _first(values_TG: Tensor, ids_TG: Tensor, k: int) -> Tensor:
    """Return the ids of the k largest float32 values, equal ones by lowest id.

    Value and id make one integer, so that nothing ties and any top-k is exact: the bits of a float32 order as integers
    do once those of negative values are turned around; -0.0 becomes 0.0. What is no number comes first, where it is
    seen.
    """
    values_TG = values_TG.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    bits_TG = (values_TG + 0.0).contiguous().view(torch.int32)
    ordered_TG = torch.where(bits_TG < 0, bits_TG ^ 0x7FFFFFFF, bits_TG).long()
    keys_TK = torch.topk(ordered_TG * 2**32 + (_LAST_ID - ids_TG), k, dim=-1).values
    return _LAST_ID - (keys_TK & 0xFFFFFFFF)
