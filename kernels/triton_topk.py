"""Top-k of a softmax over the whole vocabulary on a GPU: one pass over the logits, then a look into a few blocks.

legend: T positions, V vocabulary, B blocks, S spans, K kept

The pass leaves, per position, the maximum of every block of tokens and, per span of many blocks, a log-sum-exp and a
count of the tokens before the true one. Nothing as large as the logits is written. Where Triton is missing this
module imports all the same; `AVAILABLE` tells. With TRITON_INTERPRET=1, set before Triton is imported, the pass runs
on a CPU.
"""

import torch
from torch import Tensor

from logitfuse.kernels.blockmax import BLOCK, topk_of_blocks
from logitfuse.kernels.topk import RANK_CAP, TopK, left_out

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton comes with torch's CUDA builds and with no other
    AVAILABLE = False
else:
    AVAILABLE = True

BLOCKS_AT_ONCE = 64
SPAN = 8 * BLOCKS_AT_ONCE * BLOCK  # tokens of one program: short enough that few positions keep a whole GPU busy


def triton_topk_logprobs(logits_TV: Tensor, gold_T: Tensor, k: int, *, span: int = SPAN) -> TopK:
    """Return what `topk_logprobs` does, of float32 or bfloat16 logits, all computed in float32.

    The same ids and ranks, values to float32 rounding. `span`: tokens of one program, a multiple of BLOCK.
    """
    T, V = logits_TV.shape
    logits_TV, gold_T = logits_TV.contiguous(), gold_T.contiguous()
    spans = triton.cdiv(V, span)
    maxima_TB = logits_TV.new_empty(T, triton.cdiv(V, BLOCK))
    lse_TS, before_TS = logits_TV.new_empty(T, spans, dtype=torch.float32), gold_T.new_empty(T, spans)
    at_once = min(BLOCKS_AT_ONCE, triton.next_power_of_2(triton.cdiv(min(span, V), BLOCK)))
    _scan[(T, spans)](
        logits_TV, gold_T, maxima_TB, lse_TS, before_TS, V, span, width=BLOCK, at_once=at_once, num_warps=8
    )
    values_TK, ids_TK = topk_of_blocks(logits_TV, maxima_TB, k)
    lse_T = torch.logsumexp(lse_TS, dim=-1)
    logprobs_TK = values_TK - lse_T[:, None]
    gold_logit_T = logits_TV.gather(1, gold_T[:, None].long())[:, 0].float()
    rank_T = before_TS.sum(-1).clamp_max(RANK_CAP).int()
    return TopK(ids_TK.int(), logprobs_TK, left_out(logprobs_TK), gold_logit_T - lse_T, rank_T)


if AVAILABLE:

    @triton.jit
    def _scan(logits, gold, maxima, lse, before, V, span, width: tl.constexpr, at_once: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
        """Read one span of one position's logits once. Every block has its own running sum until the end."""
        row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
        blocks = tl.cdiv(V, width)
        gold_id = tl.load(gold + row)
        gold_logit = tl.load(logits + row * V + gold_id).to(tl.float32)
        largest = tl.full([at_once], float("-inf"), tl.float32)
        total = tl.zeros([at_once], tl.float32)
        earlier = tl.zeros([at_once], tl.int32)
        for start in range(part * span, min(part * span + span, V), at_once * width):
            block = start // width + tl.arange(0, at_once)
            ids = block[:, None] * width + tl.arange(0, width)[None, :]
            inside = (ids < V) & (ids < part * span + span)
            values = tl.load(logits + row * V + ids, mask=inside, other=float("-inf")).to(tl.float32)
            of_block = tl.max(values, axis=1)
            tl.store(
                maxima + row * blocks + block, of_block, mask=(block < blocks) & (block * width < part * span + span)
            )
            ahead = (values > gold_logit) | ((values == gold_logit) & (ids < gold_id) & inside)
            earlier += tl.sum(ahead.to(tl.int32), axis=1)
            above = tl.maximum(largest, of_block)
            shift = tl.where(above == float("-inf"), 0.0, above)  # -inf less -inf would be no number
            total = total * tl.exp(largest - shift) + tl.sum(tl.exp(values - shift[:, None]), axis=1)
            largest = above
        most = tl.max(largest, axis=0)
        shift = tl.where(most == float("-inf"), 0.0, most)
        sum_of_all = tl.sum(total * tl.exp(largest - shift), axis=0)
        place = row * tl.num_programs(1) + part
        tl.store(lse + place, tl.log(sum_of_all) + shift)
        tl.store(before + place, tl.sum(earlier, axis=0).to(tl.int64))
