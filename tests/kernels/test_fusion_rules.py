"""Fusion rules against dense sums in plain Python: unserved positions and left-out mass for every rule."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.fusion.bayes import posterior
from logitfuse.kernels.fusion.distributions import Distributions, chosen_rows, half_precision, joined
from logitfuse.kernels.fusion.evidence import Evidence, Steps
from logitfuse.kernels.fusion.mixture import mixture
from logitfuse.kernels.fusion.shares import mean_shares, winners
from logitfuse.kernels.sparse import to_half_precision

V = 12
seeds = st.integers(0, 100_000)
RULES = FUSIONS.names()
MIXING = ["avg_ce", "weighted", "bayes"]


def dense(rows: Distributions) -> np.ndarray:
    out = np.zeros((len(rows), V))
    for t, (a, b) in enumerate(itertools.pairwise(rows.offsets)):
        np.add.at(out[t], rows.ids[a:b], np.exp(rows.logprobs[a:b].astype(np.float64)))
    return out


def random_rows(rng: np.random.Generator, T: int, empty: float = 0.3) -> Distributions:
    counts = np.where(rng.random(T) < empty, 0, rng.integers(1, 6, T))
    ids = [rng.choice(V, n, replace=False) for n in counts]
    probs = [np.sort(rng.dirichlet(np.ones(n + 1))[:n])[::-1] for n in counts]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    logprobs = np.log(np.concatenate([*probs, []])).astype(np.float16).astype(np.float32)
    found = Distributions(offsets, np.concatenate([*ids, []]).astype(np.int32), logprobs, np.zeros(T))
    return Distributions(found.offsets, found.ids, found.logprobs, dense(found).sum(1))


def random_evidence(rng: np.random.Generator, S: int, T: int, scores: np.ndarray | None = None) -> Evidence:
    scores_ST = rng.random((S, T)) * 3 if scores is None else scores
    begins = rng.random(T) < 0.2
    begins[:1] = True
    bytes_T = rng.integers(0, 4, T)
    steps = Steps(np.where(bytes_T > 0, rng.random((S, T)) * 4, 0.0), bytes_T, begins)
    return Evidence(scores_ST, rng.integers(1, 4, S).astype(float), 0, lambda: steps)


def wanted_weights(rule: str, evidence: Evidence, t: int) -> list[float]:
    """What each source should count at a position, by the textbook."""
    priors, scores = evidence.priors, evidence.scores[:, t]
    if rule == "min_ce":
        best = min(range(len(priors)), key=lambda s: (scores[s] - np.log(priors[s]), s))
        return [float(s == best) for s in range(len(priors))]
    if rule == "bayes":
        return bayes_reference(evidence, t, 0.001)
    raw = priors * np.exp(np.exp(-scores) if rule == "avg_ce" else -(scores - scores.min()) / 0.1)
    return list(raw / raw.sum())


def bayes_reference(evidence: Evidence, t: int, switch: float) -> list[float]:
    """Weights after every step since the document's beginning, one after the other."""
    steps, prior = evidence.steps(), evidence.priors / evidence.priors.sum()
    weights = prior
    for p in range(max(p for p in range(t + 1) if steps.begins[p]), t + 1):
        if steps.bytes[p]:
            weights = weights * np.exp(-steps.nats[:, p])
            weights = weights / weights.sum()
            keep = (1 - switch) ** steps.bytes[p]
            weights = keep * weights + (1 - keep) * prior
    return list(weights)


def assert_sorted(rows: Distributions) -> None:
    for a, b in itertools.pairwise(rows.offsets):
        pairs = list(zip(-rows.logprobs[a:b], rows.ids[a:b], strict=True))
        assert [p for p, _ in pairs] == sorted(p for p, _ in pairs)
        assert len({i for _, i in pairs}) == len(pairs)


@pytest.mark.parametrize("rule", RULES)
@given(seed=seeds)
def test_every_rule_is_its_weights_times_the_sources_that_serve(rule: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    T, S = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    sources, evidence = [random_rows(rng, T) for _ in range(S)], random_evidence(rng, S, T)
    fused, weights_ST = FUSIONS.get(rule)(sources, evidence)
    for t in range(T):
        weights = wanted_weights(rule, evidence, t)
        np.testing.assert_allclose(weights_ST[:, t], weights, atol=1e-12)
        serving = [s for s in range(S) if sources[s].counts[t] and weights[s]]
        served = sum(weights[s] for s in serving)
        scale = 1 / served if served else 0.0
        expected = sum((scale * weights[s] * dense(sources[s])[t] for s in serving), np.zeros(V))
        np.testing.assert_allclose(dense(fused)[t], expected, rtol=1e-6, atol=1e-12)
        # Left-out mass is the weighted mean of the sources' and nobody gets it.
        np.testing.assert_allclose(fused.mass[t], expected.sum(), rtol=1e-6, atol=1e-12)
        assert fused.counts[t] == (expected > 0).sum()
    assert_sorted(fused)


@pytest.mark.parametrize("rule", RULES)
@given(seed=seeds)
def test_one_source_alone_is_left_as_it_is(rule: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = random_rows(rng, 4)
    fused, _ = FUSIONS.get(rule)([source], random_evidence(rng, 1, 4))
    np.testing.assert_allclose(dense(fused), dense(source), atol=1e-7)
    np.testing.assert_array_equal(fused.offsets, source.offsets)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("T", [0, 3])
def test_where_no_source_serves_nothing_comes_out(rule: str, T: int) -> None:
    rng = np.random.default_rng(0)
    fused, weights_ST = FUSIONS.get(rule)([random_rows(rng, T, empty=1)] * 2, random_evidence(rng, 2, T))
    assert not fused.counts.any() and not fused.mass.any() and weights_ST.shape == (2, T)
    assert (winners([random_rows(rng, T, empty=1)] * 2, weights_ST) == -1).all()


@pytest.mark.parametrize(
    ("rule", "options"),
    [(rule, {}) for rule in RULES if rule != "bayes"]
    + [("weighted", {"temperature": np.inf}), ("weighted", {"temperature": 0.0})]
    + [(rule, {"precision": "bf16"}) for rule in ("min_ce", "avg_ce")],
)
def test_no_scores_at_all_give_nothing_and_no_nan(rule: str, options: dict) -> None:
    source = random_rows(np.random.default_rng(0), 3, empty=0)
    fused, weights = FUSIONS.get(rule)([source, source], Evidence.equal(np.full((2, 3), np.inf)), **options)
    assert not weights.any() and not fused.counts.any()


def test_without_anything_known_bayes_mixes_by_the_weights_of_the_sources() -> None:
    steps = Steps(np.zeros((2, 3)), np.zeros(3, np.int64), np.array([True, False, False]))
    evidence = Evidence(np.full((2, 3), np.inf), np.array([3.0, 1.0]), None, lambda: steps)
    _, weights = FUSIONS.get("bayes")([random_rows(np.random.default_rng(0), 3)] * 2, evidence)
    np.testing.assert_allclose(weights, [[0.75] * 3, [0.25] * 3])


@pytest.mark.parametrize("rule", RULES)
def test_a_source_of_weight_zero_never_counts(rule: str) -> None:
    rng = np.random.default_rng(5)
    sources, evidence = [random_rows(rng, 6) for _ in range(3)], random_evidence(rng, 3, 6)
    _, weights = FUSIONS.get(rule)(sources, Evidence(evidence.scores, np.array([1.0, 0.0, 2.0]), 0, evidence.steps))
    assert not weights[1].any() and weights.sum() == pytest.approx(6)


@given(seeds)
def test_weighted_goes_from_min_ce_to_the_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    T, S = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    sources = [random_rows(rng, T) for _ in range(S)]
    scores = np.where(rng.random((S, T)) < 0.2, np.inf, rng.random((S, T)))
    evidence = Evidence(scores, rng.integers(1, 4, S).astype(float))
    weighted, min_ce = FUSIONS.get("weighted"), FUSIONS.get("min_ce")
    (found, found_weights), (wanted, wanted_weights) = (
        weighted(sources, evidence, temperature=0.0),
        min_ce(sources, evidence),
    )
    np.testing.assert_array_equal(found.logprobs, wanted.logprobs)
    np.testing.assert_array_equal(found_weights, wanted_weights)
    _, weights = weighted(sources, evidence, temperature=np.inf)
    there = np.isfinite(scores) * evidence.priors[:, None]
    np.testing.assert_allclose(weights, there / np.maximum(there.sum(0), 1), rtol=1e-12)
    equal = Evidence.equal(scores)
    _, cold = weighted(sources, equal, temperature=1e-9)  # and what tends to 0 tends to MinCE
    np.testing.assert_allclose(cold, min_ce(sources, equal)[1], atol=1e-12)


def test_bayes_learns_nothing_from_text_that_no_source_thought_possible() -> None:
    rows = random_rows(np.random.default_rng(0), 3)
    steps = Steps(
        np.array([[0.0, np.inf, 1.0], [0.0, np.inf, 2.0]]), np.array([0, 3, 2]), np.array([True, False, False])
    )
    _, weights = FUSIONS.get("bayes")(
        [rows, rows], Evidence(np.zeros((2, 3)), np.ones(2), 0, lambda: steps), switch=0.0
    )
    np.testing.assert_allclose(weights[:, 1], [0.5, 0.5])
    np.testing.assert_allclose(weights[:, 2], np.exp([-1, -2]) / np.exp([-1, -2]).sum())


@given(seeds)
def test_bayes_knows_nothing_of_what_follows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    T, S = 12, 3
    evidence, switch = random_evidence(rng, S, T), float(rng.choice([0.0, 0.02, 1.0]))
    steps, now = evidence.steps(), int(rng.integers(0, T))
    weights = posterior(steps, evidence.priors, switch)
    np.testing.assert_allclose(weights.sum(0), 1)
    np.testing.assert_allclose(weights[:, now], bayes_reference(evidence, now, switch), atol=1e-12)
    later = now + 1 + rng.permutation(T - now - 1)
    order = np.concatenate([np.arange(now + 1), later])
    other = Steps(steps.nats[:, order], steps.bytes[order], steps.begins[order])
    np.testing.assert_array_equal(posterior(other, evidence.priors, switch)[:, : now + 1], weights[:, : now + 1])


def test_switching_keeps_bayes_from_collapsing() -> None:
    steps = Steps(np.array([[0.0] * 50, [40.0] * 50]), np.full(50, 4), np.arange(50) == 0)
    assert posterior(steps, np.ones(2), 0.0)[1, -1] < 1e-300
    assert posterior(steps, np.ones(2), 0.01)[1, -1] > 0.01
    np.testing.assert_allclose(posterior(steps, np.array([1.0, 3.0]), 1.0), [[0.25] * 50, [0.75] * 50])


@given(seeds)
def test_chosen_rows_and_joined_copy_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    T, S = int(rng.integers(0, 9)), int(rng.integers(1, 4))
    sources, winner = [random_rows(rng, T) for _ in range(S)], rng.integers(-1, S, T).astype(np.int32)
    found = chosen_rows(sources, winner)
    rows = [sources[s].take(t, t + 1) if s >= 0 else random_rows(rng, 1, empty=1) for t, s in enumerate(winner)]
    for wanted in [joined(rows)] if rows else []:
        for name in ("offsets", "ids", "logprobs", "mass"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@given(seeds)
def test_wide_rows_are_mixed_and_sorted_too(seed: int) -> None:
    """Rows of several hundred tokens take the larger table and the longer gaps of the sort."""
    rng = np.random.default_rng(seed)
    sources = []
    for _ in range(3):
        counts = rng.integers(0, 500, 2)
        ids = np.concatenate([rng.choice(10**6, n, replace=False) for n in counts] + [[]]).astype(np.int32)
        logprobs = np.log(rng.integers(1, 9, len(ids)) / 64).astype(np.float32)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        sources.append(Distributions(offsets, ids, logprobs, np.ones(2)))
    fused = mixture(sources, np.full((3, 2), 1 / 3))
    for t, (a, b) in enumerate(itertools.pairwise(fused.offsets)):
        total: dict[int, float] = {}
        serving = [s for s in sources if s.counts[t]]
        for s in serving:
            for j in range(s.offsets[t], s.offsets[t + 1]):
                total[s.ids[j]] = total.get(s.ids[j], 0.0) + 1 / 3 * (1 / len(serving) * 3) * np.exp(
                    np.float64(s.logprobs[j])
                )
        assert set(fused.ids[a:b]) == set(total)
        np.testing.assert_allclose(
            fused.logprobs[a:b], np.log([total[i] for i in fused.ids[a:b]]), rtol=1e-5, atol=1e-6
        )
        pairs = [(-fused.logprobs[j], fused.ids[j]) for j in range(a, b)]
        assert [p for p, _ in pairs] == sorted(p for p, _ in pairs)


def test_equal_probabilities_go_to_the_lowest_id() -> None:
    source = Distributions(
        np.array([0, 3]), np.array([7, 2, 5], np.int32), np.log([0.25] * 3).astype(np.float32), np.ones(1)
    )
    assert mixture([source, source], np.full((2, 1), 0.5)).ids.tolist() == [2, 5, 7]


@given(seeds)
def test_no_position_knows_of_its_neighbours(seed: int) -> None:
    """The same bytes for any batch size: fused together or one by one."""
    rng = np.random.default_rng(seed)
    T, S = 5, int(rng.integers(1, 10))
    sources, evidence = [random_rows(rng, T) for _ in range(S)], random_evidence(rng, S, T)
    for rule in RULES:
        whole, weights = FUSIONS.get(rule)(sources, evidence)
        if rule == "bayes":
            continue
        for t in range(T):
            alone, weight = FUSIONS.get(rule)(
                [s.take(t, t + 1) for s in sources], Evidence(evidence.scores[:, t : t + 1], evidence.priors, 0)
            )
            np.testing.assert_array_equal(weight[:, 0], weights[:, t])
            np.testing.assert_array_equal(alone.logprobs, whole.take(t, t + 1).logprobs)
            np.testing.assert_array_equal(alone.mass, whole.mass[t : t + 1])


def test_what_a_row_says_of_its_sources() -> None:
    weights = np.array([[0.75, 0.5, 0.0, 0.25], [0.25, 0.5, 0.0, 0.75]])
    np.testing.assert_array_equal(mean_shares(weights, np.array([0, 0, 3, 4])), [[0, 0.625, 0.25], [0, 0.375, 0.75]])
    full, none = (random_rows(np.random.default_rng(1), 4, empty=e) for e in (0, 1))
    assert winners([full, full], weights).tolist() == [0, 0, -1, 1]
    assert winners([none, full], weights).tolist() == [1, 1, -1, 1]


@given(st.lists(st.floats(max_value=0, min_value=-60000, width=32), min_size=1, max_size=30))
def test_half_precision_is_fp16(values: list[float]) -> None:
    logprobs = np.array([*values, 0.0, -(2.0**-14), -(2.0**-15), -1e-8, -3e-8, -20.0], np.float32)
    near = np.concatenate([logprobs, -np.logspace(-9, 2, 500, dtype=np.float32)])
    np.testing.assert_array_equal(half_precision(near), to_half_precision(near))
