"""What is kept of a distribution, against loops over the sorted softmax; draws against what they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitfuse.kernels.head import Head
from logitfuse.kernels.keep import Keep, all_finite, cut_to_mass
from logitfuse.kernels.sampling import draw_tails, sampled
from logitfuse.kernels.topk import TopK, joined, topk_logprobs


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    wide = logits.astype(np.float64) / temperature
    exp = np.exp(wide - wide.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def some_logits(T: int, V: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(T, V, generator=torch.Generator().manual_seed(seed)) * spread


@given(st.integers(1, 5), st.integers(2, 60), st.integers(0, 9999), st.floats(0.01, 1.0), st.integers(1, 60))
def test_topp_keeps_the_fewest_that_reach_the_mass(T: int, V: int, seed: int, top_p: float, k: int) -> None:
    logits_TV, k = some_logits(T, V, seed), min(k, V)
    found = cut_to_mass(topk_logprobs(logits_TV, torch.zeros(T, dtype=torch.long), k), top_p)
    assert found.counts_T is not None
    for t in range(T):
        probs = np.exp(found.logprobs_TK[t].double().numpy())
        mass, count = 0.0, 0
        while count < k and (mass < top_p or count == 0):
            mass += probs[count]
            count += 1
        assert found.counts_T[t] == count
        assert abs(float(found.tail_T[t]) - max(1 - mass, 0)) < 1e-6


@given(st.integers(1, 4), st.integers(2, 50), st.integers(0, 9999), st.floats(0.2, 5.0))
def test_a_temperature_divides_every_logit_but_not_the_gold_tokens(T: int, V: int, seed: int, heat: float) -> None:
    logits_TV = some_logits(T, V, seed)
    gold_T = torch.randint(0, V, (T,), generator=torch.Generator().manual_seed(seed))
    found, plain = topk_logprobs(logits_TV, gold_T, 2, heat), topk_logprobs(logits_TV, gold_T, 2)
    wanted = np.sort(softmax(logits_TV.numpy(), heat))[:, ::-1][:, :2]
    np.testing.assert_allclose(found.logprobs_TK.exp(), wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.gold_logprob_T, plain.gold_logprob_T) and torch.equal(found.ids_TK, plain.ids_TK)


@given(st.integers(1, 20), st.integers(4, 60), st.integers(0, 9999), st.integers(1, 3), st.integers(1, 40))
def test_draws_are_evenly_spaced_on_the_tail(T: int, V: int, seed: int, k: int, draws: int) -> None:
    logits_TV = some_logits(T, V, seed)
    best = topk_logprobs(logits_TV, torch.zeros(T, dtype=torch.long), k)
    noise_T = torch.rand(T, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ids_TN, times_TN, left_T = draw_tails(logits_TV, best.ids_TK, draws, noise_T)
    probs = softmax(logits_TV.numpy())
    for t in range(T):
        rest = probs[t].copy()
        rest[best.ids_TK[t].long()] = 0.0
        assert abs(rest.sum() - float(left_T[t])) < 1e-9
        times = np.zeros(V, int)
        drawn = times_TN[t] > 0
        times[ids_TN[t][drawn].long()] = times_TN[t][drawn]
        assert times.sum() == draws and not times[best.ids_TK[t].long()].any()
        expected = rest / rest.sum() * draws
        assert (np.abs(times - expected) < 1 + 1e-6).all()  # systematic: never further off than one draw


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_mean_over_many_samples_is_the_dense_distribution(temperature: float) -> None:
    rounds, V = 3000, 40
    logits_1V = some_logits(1, V, 5, spread=1.5)
    noise = torch.rand(rounds, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = sampled(logits_1V.expand(rounds, V), torch.zeros(rounds, dtype=torch.long), 3, 4, noise, temperature)
    assert found.counts_T is not None and found.draws_TK is not None
    kept = torch.arange(found.ids_TK.shape[1]) < found.counts_T[:, None]
    probs = found.logprobs_TK.double().exp()
    assert ((probs * kept).sum(-1) - 1).abs().max() < 1e-6  # each sample is a distribution
    estimate = np.zeros((rounds, V))
    rows = np.nonzero(kept.numpy())[0]
    np.add.at(estimate, (rows, found.ids_TK[kept].numpy()), probs[kept].numpy())
    wanted = softmax(logits_1V.numpy(), temperature)[0]
    error, spread = estimate.mean(0) - wanted, estimate.std(0) / np.sqrt(rounds)
    assert (np.abs(error) <= 4.5 * spread + 1e-7).all()
    best = np.argsort(-wanted)[:3]
    assert spread[best].max() < 1e-6 < spread.max()  # kept for certain, and others by chance
    assert (found.draws_TK[kept].view(-1) >= 0).all() and int(found.draws_TK[0].sum()) == 4


def test_truncation_is_biased_where_draws_are_not() -> None:
    """The test above can fail: a renormalised top-k is far from the dense distribution on average."""
    logits_1V = some_logits(1, 40, 5, spread=1.5)
    kept = topk_logprobs(logits_1V, torch.zeros(1, dtype=torch.long), 7).logprobs_TK.exp()[0]
    wanted = np.sort(softmax(logits_1V.numpy())[0])[::-1][:7]
    assert np.abs(kept.numpy() / kept.sum().item() - wanted).max() > 0.02


def test_rows_come_best_first_with_ties_by_id() -> None:
    logits_1V = torch.zeros(1, 30)
    found = sampled(logits_1V, torch.zeros(1, dtype=torch.long), 2, 28, torch.tensor([0.3], dtype=torch.float64))
    assert found.counts_T is not None and int(found.counts_T[0]) == 30
    steps = found.logprobs_TK[0].diff()
    assert (steps <= 1e-7).all()
    assert found.ids_TK[0, :2].tolist() == [0, 1]
    flat = (steps == 0).numpy()
    assert (found.ids_TK[0].diff().numpy()[flat] > 0).all()


def test_without_a_tail_nothing_is_drawn() -> None:
    logits_TV = torch.tensor([[5.0, 4.0, -torch.inf, -torch.inf], [5.0, 4.0, 3.0, 2.0]])
    noise = torch.tensor([0.999999, 0.999999], dtype=torch.float64)
    found = sampled(logits_TV, torch.zeros(2, dtype=torch.long), 2, 5, noise)
    assert found.counts_T is not None and found.counts_T.tolist()[0] == 2 and found.counts_T[1] > 2
    assert all_finite(found).all()


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from(["topk", "topp", "sampled"]), st.sampled_from([1.0, 2.0]))
def test_the_head_keeps_by_any_rule_what_its_float32_logits_say(seed: int, mode: str, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(9, 16, generator=generator).bfloat16()
    weight = torch.randn(600, 16, generator=generator).bfloat16()
    head = Head(weight, weight.float(), None, None, 1.0)
    gold = torch.randint(0, 600, (9,), generator=generator)
    noise = torch.rand(9, dtype=torch.float64, generator=generator)
    keep = Keep(5, mode, 0.6, 7, temperature)  # type: ignore[arg-type]
    found = head.kept(hidden, gold, keep, noise)
    logits = head.logits(hidden)
    if mode == "sampled":
        wanted = sampled(logits, gold, 5, 7, noise, temperature)
    else:
        wanted = topk_logprobs(logits, gold, 5, temperature)
        wanted = cut_to_mass(wanted, 0.6) if mode == "topp" else wanted
    assert torch.equal(found.ids_TK, wanted.ids_TK)
    torch.testing.assert_close(found.logprobs_TK, wanted.logprobs_TK, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.tail_T, wanted.tail_T, atol=1e-3, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 128, 511, 512])
def test_k_from_1_to_512(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    hidden = torch.randn(3, 16, generator=generator).bfloat16()
    weight = torch.randn(2000, 16, generator=generator).bfloat16()
    head = Head(weight, weight.float(), None, None, 1.0)
    found = head.kept(hidden, torch.zeros(3, dtype=torch.long), Keep(k))
    order = head.logits(hidden).sort(dim=-1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(found.ids_TK.long(), order)


def test_joining_keeps_what_only_some_modes_have() -> None:
    logits = some_logits(4, 20, 0)
    noise = torch.full((4,), 0.5, dtype=torch.float64)
    gold = torch.zeros(4, dtype=torch.long)
    whole = sampled(logits, gold, 2, 3, noise)
    parts = joined([sampled(logits[:1], gold[:1], 2, 3, noise[:1]), sampled(logits[1:], gold[1:], 2, 3, noise[1:])])
    assert isinstance(parts, TopK) and parts.logits_TK is None
    for a, b in zip(whole, parts, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)  # type: ignore[arg-type]
