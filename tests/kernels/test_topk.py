"""Top-k against a full sort, with ties on purpose."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.head import Head
from logitfuse.kernels.topk import RANK_CAP, topk_logprobs


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 10_000), st.booleans())
def test_topk_is_the_sorted_softmax(T: int, V: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 3, (T, V)).astype(np.float32) if ties else rng.normal(0, 4, (T, V)).astype(np.float32)
    gold = rng.integers(0, V, T)
    k = int(rng.integers(1, V + 1))
    found = topk_logprobs(torch.tensor(logits), torch.tensor(gold), k)
    wide = logits.astype(np.float64)
    logp = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    for t in range(T):
        order = sorted(range(V), key=lambda v: (-logits[t, v], v))
        assert found.ids_TK[t].tolist() == order[:k]
        np.testing.assert_allclose(found.logprobs_TK[t], logp[t, order[:k]], atol=2e-6)
        np.testing.assert_allclose(found.tail_T[t], np.exp(logp[t, order[k:]]).sum(), atol=2e-6)
        np.testing.assert_allclose(found.gold_logprob_T[t], logp[t, gold[t]], atol=2e-6)
        assert found.gold_rank_T[t] == min(order.index(gold[t]), RANK_CAP)


@given(st.integers(1, 5), st.integers(250, 600), st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_bfloat16_logits_give_what_a_float32_head_gives(N: int, V: int, seed: int, k: int, flat: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, 16, generator=generator).bfloat16()
    weight = (torch.randn(V, 16, generator=generator) * (0.01 if flat else 0.7)).bfloat16()
    if seed % 3 == 0:
        weight[V // 2 :] = weight[: V - V // 2].clone()  # exact ties between two halves of the vocabulary
    bias = torch.randn(V, generator=generator) if seed % 2 else None
    gold = torch.randint(0, V, (N,), generator=generator)
    head = Head(weight, weight.float(), bias, soft_cap=5.0 if seed % 5 == 0 else None, scale=1.0)
    fast, exact = head.topk(hidden, gold, k), topk_logprobs(head.logits(hidden), gold, k)
    assert torch.equal(fast.ids_TK, exact.ids_TK)
    assert torch.equal(fast.gold_rank_T, exact.gold_rank_T)
    for name in ("logprobs_TK", "gold_logprob_T", "tail_T"):
        torch.testing.assert_close(getattr(fast, name), getattr(exact, name), atol=1e-3, rtol=0)


def test_far_from_zero_the_normaliser_is_still_exact() -> None:
    """Logits of 20 to 60 in bfloat16 are off by up to 1/8; with a level taken off first they are not."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(40, 32, generator=generator), torch.randn(6000, 32, generator=generator) * 0.4
    hidden[:, 0], weight[:, 0] = 8.0, torch.linspace(4, 5, 40).repeat(150)  # nearly the same for all tokens
    head = Head(weight.bfloat16(), weight.bfloat16().float(), None, None, 1.0)
    gold = torch.arange(40)
    fast, exact = head.topk(hidden.bfloat16(), gold, 10), topk_logprobs(head.logits(hidden.bfloat16()), gold, 10)
    assert torch.equal(fast.ids_TK, exact.ids_TK)
    torch.testing.assert_close(fast.logprobs_TK, exact.logprobs_TK, atol=5e-4, rtol=0)


def test_what_is_no_number_shows() -> None:
    hidden, weight = torch.ones(2, 8).bfloat16(), torch.ones(300, 8).bfloat16()
    hidden[1, 3] = torch.nan
    found = Head(weight, weight.float(), None, None, 1.0).topk(hidden, torch.zeros(2).long(), 3)
    assert torch.isfinite(found.logprobs_TK[0]).all() and not torch.isfinite(found.logprobs_TK[1]).any()
    assert found.ids_TK[0].tolist() == [0, 1, 2]
