"""What a target gives the true token, against the definition on full distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.headroom import Compared, OwnPredictions, Tally, TokenClass, gold_nats, token_classes
from logitfuse.kernels.sparse import Sparse

V = 8


def random_case(seed: int) -> tuple[np.ndarray, Sparse, np.ndarray, OwnPredictions]:
    """Return the target model's full distributions, targets, labels, and what was captured of the former."""
    rng = np.random.default_rng(seed)
    T = int(rng.integers(1, 6))
    q = rng.dirichlet(np.ones(V), T)
    labels = rng.integers(0, V, T).astype(np.int32)
    counts = rng.integers(0, 4, T)
    ids = [rng.choice(V, n, replace=False).astype(np.int32) for n in counts]
    probs = [np.sort(rng.dirichlet(np.ones(n + 1))[:n])[::-1] for n in counts]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = Sparse(offsets, np.concatenate([*ids, np.zeros(0, np.int32)]), np.concatenate([*probs, np.zeros(0)]))
    own = OwnPredictions(np.log(q[np.arange(T), labels]), np.argsort(-q, axis=1).astype(np.int32), -np.sort(-q, axis=1))
    return q, rows, labels, own


@given(st.integers(0, 100_000))
def test_left_out_mass_lies_as_the_target_models_own_does_outside_the_support(seed: int) -> None:
    q, rows, labels, own = random_case(seed)
    found = gold_nats(rows, rows.mass, labels, own, "bucket")
    ruled = gold_nats(rows, rows.mass, labels, own, "renormalise")
    for t, label in enumerate(labels):
        part = slice(rows.offsets[t], rows.offsets[t + 1])
        kept = dict(zip(rows.ids[part].tolist(), rows.probs[part].tolist(), strict=True))
        if not kept:
            assert np.isnan(found[t]) and np.isnan(ruled[t])
            continue
        whole = q[t] / (1 - sum(q[t, i] for i in kept)) * (1 - sum(kept.values()))
        for i, p in kept.items():
            whole[i] = p
        np.testing.assert_allclose(whole.sum(), 1)
        np.testing.assert_allclose(found[t], -np.log(whole[label]), rtol=1e-6)
        expected = kept[label] / sum(kept.values()) if label in kept else 0.0
        np.testing.assert_allclose(ruled[t], -np.log(expected) if expected else np.inf, rtol=1e-6)


@given(st.integers(0, 100_000), st.integers(1, V))
def test_knowing_only_the_top_of_the_target_model_never_flatters(seed: int, k: int) -> None:
    _, rows, labels, own = random_case(seed)
    cut = OwnPredictions(own.gold_T, own.ids_TK[:, :k], own.probs_TK[:, :k])
    exact, bound = (gold_nats(rows, rows.mass, labels, known, "bucket") for known in (own, cut))
    assert (np.isnan(exact) | (bound >= exact - 1e-9)).all()


def test_the_target_models_own_rows_cost_what_the_target_model_costs() -> None:
    rng = np.random.default_rng(5)
    q = rng.dirichlet(np.ones(V), 200)
    labels, k = rng.integers(0, V, 200).astype(np.int32), 3
    ids, probs = np.argsort(-q, axis=1)[:, :k].astype(np.int32), -np.sort(-q, axis=1)[:, :k]
    own = OwnPredictions(np.log(q[np.arange(200), labels]), ids, probs)
    rows = Sparse(np.arange(0, 200 * k + 1, k, dtype=np.int64), ids.ravel(), probs.ravel())
    np.testing.assert_allclose(gold_nats(rows, probs.sum(axis=1), labels, own, "bucket"), -own.gold_T, rtol=1e-9)


def test_nothing_left_out_rules_the_others_out() -> None:
    own = OwnPredictions(np.log(np.array([0.2])), np.array([[1]], np.int32), np.array([[0.5]]))
    certain = Sparse(np.array([0, 1]), np.array([3], np.int32), np.ones(1))
    assert gold_nats(certain, np.ones(1), np.array([2], np.int32), own, "bucket").tolist() == [np.inf]


def test_classes_by_where_the_next_tokens_end() -> None:
    source_next, target_next = np.array([2, 5, 9, -1]), np.array([2, 6, 7, 9, -1, 8])
    found = token_classes(source_next, target_next, np.array([0, 1, 2, 3, 1, -1]))
    kinds = [
        TokenClass.SAME, TokenClass.SHORTER, TokenClass.LONGER, TokenClass.UNKNOWN, TokenClass.UNKNOWN,
        TokenClass.UNSERVED,
    ]  # fmt: skip
    assert found.tolist() == kinds


def test_a_tally_counts_ruled_out_positions_for_the_student_and_apart_for_the_targets() -> None:
    tally = Tally()
    classes = np.array([TokenClass.SAME, TokenClass.SAME, TokenClass.SAME, TokenClass.UNSERVED], np.int8)
    own, nats = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, np.inf, 1.5, np.nan])
    for _ in range(2):
        tally.add(("test", "fused", "law"), classes, own, nats)
    same = tally.groups["test", "fused", "law", TokenClass.SAME]
    sums = {"own": 12.0, "own_compared": 8.0, "targets": 4.0, "own_anywhere": 12.0}
    assert same == Compared(positions=6, taught=6, ruled_out=2, **sums) and same.compared == 4
    assert tally.groups["test", "fused", "law", TokenClass.UNSERVED].taught == 0


@pytest.mark.parametrize("residual", ["bucket", "renormalise", "as_given"])
def test_no_positions_are_no_numbers(residual: str) -> None:
    own = OwnPredictions(np.zeros(0), np.zeros((0, 3), np.int32), np.zeros((0, 3)))
    assert len(gold_nats(Sparse.empty(0), np.zeros(0), np.zeros(0, np.int32), own, residual)) == 0
