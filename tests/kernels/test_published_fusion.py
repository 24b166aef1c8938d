"""bfloat16 fusion is the published collator's and trainer's, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published import fusion as published

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.bfloat16 import own_where_empty, rewards, round_bf16, softmax_rows
from logitfuse.kernels.fusion.distributions import Distributions
from logitfuse.kernels.fusion.evidence import Evidence

V = 40
seeds = st.integers(0, 10**6)


def random_block(rng: np.random.Generator, T: int, S: int, fallback: bool) -> published.Document:
    """Rows as align leaves them: top-k logits in fp16, one-hots, and (not in the target's own) empty ones."""

    def row(s: int) -> published.Row:
        kind = rng.random()
        if s and kind < 0.2:
            return ([], []) if fallback else ([int(rng.integers(V))], [1.0])
        k = 10 if kind < 0.8 else int(rng.integers(1, 12))
        logits = np.sort(rng.normal(0, rng.choice([1, 6, 60]), k).astype(np.float16))[::-1]
        return rng.choice(V, k, replace=False).tolist(), logits.astype(float).tolist()

    metrics = rng.choice([rng.normal(2.0, 0.01, S), rng.uniform(0.5, 9, S)])
    return published.Document([0] * T, metrics.tolist(), [[row(s) for _ in range(T)] for s in range(S)])


def ours(rows: list[published.Row], temperature: float) -> Distributions:
    counts = np.array([len(ids) for ids, _ in rows], np.int32)
    ids = np.array([i for ids, _ in rows for i in ids], np.int32)
    logits = np.array([z for _, zs in rows for z in zs], np.float32)
    return softmax_rows(counts, ids, logits, temperature)


def dense(rows: Distributions) -> torch.Tensor:
    """What a reader gets back: exp of the stored float32 logarithms, rounded to bfloat16."""
    out = torch.zeros(len(rows), V, dtype=torch.bfloat16)
    for t in range(len(rows)):
        part = slice(rows.offsets[t], rows.offsets[t + 1])
        out[t, rows.ids[part].astype(np.int64)] = torch.from_numpy(
            np.exp(rows.logprobs[part].astype(np.float64))
        ).bfloat16()
    return out


@given(seeds, st.sampled_from([1.0, 2.0, 0.7]), st.booleans())
def test_targets_choice_and_average_are_the_published_ones(seed: int, temperature: float, fallback: bool) -> None:
    rng = np.random.default_rng(seed)
    T, S = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    block = random_block(rng, T, S, fallback)
    wanted = published.distributions(block, V, temperature)
    sources = [ours(rows, temperature) for rows in block.rows]
    sources = [own_where_empty(source, sources[0]) for source in sources]
    for source, theirs in zip(sources, wanted, strict=True):
        assert torch.equal(dense(source), theirs)
        np.testing.assert_allclose(source.mass, theirs.double().sum(-1).numpy(), rtol=1e-12)
    scores_ST = np.repeat(np.array(block.metrics)[:, None], T, axis=1)
    for target in (0, None):
        fused, weights = FUSIONS.get("min_ce")(sources, Evidence(scores_ST, np.ones(S), target), precision="bf16")
        theirs, chosen = published.min_ce(wanted, block.metrics, with_target=target == 0)
        assert torch.equal(dense(fused), theirs) and (weights.argmax(0) == chosen).all()
    fused, weights = FUSIONS.get("avg_ce")(sources, Evidence.equal(scores_ST), precision="bf16")
    theirs, theirs_weights = published.avg_ce(wanted, block.metrics)
    assert torch.equal(dense(fused), theirs)
    np.testing.assert_array_equal(weights, np.repeat(theirs_weights.double().numpy()[:, None], T, axis=1))
    np.testing.assert_allclose(fused.mass, theirs.double().sum(-1).numpy(), rtol=1e-12)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_rounding_is_torchs(values: list[float]) -> None:
    wanted = torch.tensor(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(round_bf16(np.array(values)), wanted)


def test_rounding_of_every_kind_of_float() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    np.testing.assert_array_equal(round_bf16(values), torch.from_numpy(values).bfloat16().float().numpy())
    ties = (np.arange(0x3F80, 0x3FA0, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    np.testing.assert_array_equal(round_bf16(ties), torch.from_numpy(ties).bfloat16().float().numpy())


def test_close_scores_tie_in_bfloat16_but_not_in_full() -> None:
    sources = [ours([([s], [1.0])], 1.0) for s in range(3)]
    scores = np.array([[2.001], [2.0005], [2.0]])
    assert len(set(rewards(scores)[:, 0])) == 1
    for precision, target, winner in [("full", 0, 2), ("bf16", 1, 0), ("bf16", None, 2)]:
        fused, _ = FUSIONS.get("min_ce")(sources, Evidence(scores, np.ones(3), target), precision=precision)
        assert fused.ids.tolist() == [winner]


def test_what_rounds_to_nothing_is_dropped() -> None:
    rows = softmax_rows(
        np.array([2, 0, 1]), np.array([3, 4, 5], np.int32), np.array([0.0, -200.0, 1.0], np.float32), 1.0
    )
    assert rows.offsets.tolist() == [0, 1, 1, 2] and rows.ids.tolist() == [3, 5] and rows.mass.tolist() == [1, 0, 1]


@pytest.mark.parametrize("rule", ["min_ce", "avg_ce"])
def test_weights_of_sources_count_in_bfloat16_too(rule: str) -> None:
    sources = [ours([([s], [1.0])], 1.0) for s in range(2)]
    scores = np.full((2, 1), 2.0)
    for priors, winner in [((1.0, 0.0), 0), ((0.0, 1.0), 1), ((1.0, 3.0), 1)]:
        _, weights = FUSIONS.get(rule)(sources, Evidence(scores, np.array(priors), 0), precision="bf16")
        assert weights[:, 0].argmax() == winner and weights[:, 0].sum() == pytest.approx(1, abs=0.01)


def test_a_source_that_serves_nothing_gives_its_share_to_the_others() -> None:
    sources = [ours(rows, 1.0) for rows in ([([1], [1.0])], [([], [])], [([2], [1.0])])]
    fused, _ = FUSIONS.get("avg_ce")(sources, Evidence.equal(np.full((3, 1), 1.0)), precision="bf16")
    assert fused.ids.tolist() == [1, 2] and fused.mass[0] == pytest.approx(1, abs=0.01)
