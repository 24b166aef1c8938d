"""Projection and scores against dense or loop references."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.projection import project
from logitfuse.kernels.scores import Scored, nats_over_identical_bytes
from logitfuse.kernels.sparse import Sparse, concatenate

V = 12
seeds = st.integers(0, 100_000)


def dense(rows: Sparse) -> np.ndarray:
    out = np.zeros((len(rows), V))
    for t in range(len(rows)):
        for j in range(rows.offsets[t], rows.offsets[t + 1]):
            out[t, rows.ids[j]] += rows.probs[j]
    return out


def random_rows(rng: np.random.Generator, T: int, empty: float = 0.3) -> Sparse:
    counts = np.where(rng.random(T) < empty, 0, rng.integers(1, 5, T))
    ids = [rng.choice(V, n, replace=False) for n in counts]
    probs = [np.sort(rng.dirichlet(np.ones(n + 1))[:n])[::-1] for n in counts]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Sparse(offsets, np.concatenate([*ids, []]).astype(np.int32), np.concatenate([*probs, []]))


def assert_sorted(rows: Sparse) -> None:
    for t in range(len(rows)):
        part = slice(rows.offsets[t], rows.offsets[t + 1])
        pairs = list(zip(-rows.probs[part], rows.ids[part], strict=True))
        assert pairs == sorted(pairs)
        assert len({i for _, i in pairs}) == len(pairs)


@given(seeds)
def test_projection_is_a_matrix_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    P, K, Vs, T = rng.integers(1, 5), rng.integers(1, 5), 9, rng.integers(0, 7)
    ids = np.stack([rng.choice(Vs + 2, K, replace=False) for _ in range(P)]).astype(np.int32)  # two past the map
    probs = rng.random((P, K)) / K
    fan = rng.integers(0, 3, Vs)
    offsets = np.concatenate([[0], np.cumsum(fan)]).astype(np.int64)
    targets = np.concatenate([rng.choice(V, n, replace=False) for n in fan] + [[]]).astype(np.int32)
    weights = rng.random(len(targets)).astype(np.float32)
    rows = rng.integers(-1, P, T).astype(np.int64)
    found = project(ids, probs, rows, offsets, targets, weights)
    matrix = np.zeros((Vs + 2, V))
    for s in range(Vs):
        for m in range(offsets[s], offsets[s + 1]):
            matrix[s, targets[m]] += weights[m]
    source = np.zeros((P, Vs + 2))
    for p in range(P):
        source[p, ids[p]] = probs[p]
    expected = np.array([np.zeros(V) if r < 0 else (source @ matrix)[r] for r in rows]).reshape(T, V)
    np.testing.assert_allclose(dense(found), expected, atol=1e-12)
    assert_sorted(found)


def test_scores_compare_identical_bytes_only() -> None:
    whole = Scored(np.array([0, 2, 5]), np.array([2, 5, 9]), np.array([1.0, 2.0, 4.0]))
    no_start = Scored(np.array([2, 3]), np.array([3, 9]), np.array([0.5, 0.25]))
    short = Scored(np.array([0, 1, 2]), np.array([1, 2, 5]), np.array([8.0, 16.0, 32.0]))
    nats, size = nats_over_identical_bytes([whole, no_start])
    assert (nats.tolist(), size) == ([6.0, 0.75], 7)
    nats, size = nats_over_identical_bytes([whole, short])
    assert (nats.tolist(), size) == ([3.0, 56.0], 5)
    assert nats_over_identical_bytes([no_start, short])[1] == 0
    unknown = Scored(np.array([0, -1, -1]), np.array([-1, -1, 9]), np.array([1.0, 1.0, 1.0]))
    assert nats_over_identical_bytes([whole, unknown])[0].tolist() == [7.0, 3.0]


def test_concatenate_and_take_are_inverse() -> None:
    rng = np.random.default_rng(1)
    parts = [random_rows(rng, n) for n in (2, 0, 3)]
    joined = concatenate(parts)
    for (a, b), part in zip([(0, 2), (2, 2), (2, 5)], parts, strict=True):
        np.testing.assert_array_equal(dense(joined.take(a, b)), dense(part))
    np.testing.assert_allclose(joined.mass, dense(joined).sum(1))
