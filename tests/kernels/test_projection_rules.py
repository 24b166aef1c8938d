"""What becomes of two source tokens on one target token, of rows nothing serves, and of rows the target weights."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels import projection
from logitfuse.kernels.conditioning import Conditional, condition
from logitfuse.kernels.projected_rows import NARROW, sort_row
from logitfuse.kernels.projection import project, project_logits
from logitfuse.kernels.sparse import row_sums

V, K = 9, 3
seeds = st.integers(0, 1_000_000)


@dataclass
class Case:
    """Random source rows, a map with several targets per source id, and the target's own distributions."""

    seed: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        positions, size = int(rng.integers(1, 4)), 7
        self.ids = np.array([rng.choice(size + 2, K, replace=False) for _ in range(positions)], np.int32)
        self.values = rng.dirichlet(np.ones(K), positions) * rng.choice([0.0, 0.9], (positions, K), p=[0.1, 0.9])
        fan = rng.integers(0, 4, size)
        self.offsets = np.concatenate([[0], np.cumsum(fan)])
        self.targets = np.concatenate([rng.choice(V, n, replace=False) for n in fan] + [[]]).astype(np.int32)
        self.weights = np.concatenate([rng.dirichlet(np.ones(n)) if n else [] for n in fan] + [[]]).astype(np.float32)
        self.rows = rng.integers(-1, positions, int(rng.integers(1, 6)))
        self.fallback = rng.integers(-1, V, len(self.rows)).astype(np.int32)
        own = int(rng.integers(1, 4))
        self.own_ids = np.array([rng.choice(V + 2, K, replace=False) for _ in range(own)], np.int32)
        self.own_probs = rng.dirichlet(np.ones(K + 1), own)[:, :K] * rng.choice([0.0, 1.0], (own, 1), p=[0.2, 0.8])
        self.tail = (1 - self.own_probs.sum(axis=1)) * rng.choice([0.0, 1.0], own)
        self.habits = rng.dirichlet(np.ones(V + 2)) * rng.choice([0.0, 1.0], V + 2, p=[0.1, 0.9])
        self.own_rows = rng.integers(-1, own, len(self.rows))

    @property
    def map(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.offsets, self.targets, self.weights

    @property
    def own(self) -> Conditional:
        return condition(self.own_ids, self.own_probs, self.tail, self.own_rows, self.habits)

    def carried(self, t: int, s: int, conditioned: bool) -> list[tuple[int, float]]:
        """Return (target id, weight) of source id s at target position t, in the map's order."""
        if s >= len(self.offsets) - 1:
            return []
        row = slice(self.offsets[s], self.offsets[s + 1])
        pairs = [(int(y), float(w)) for y, w in zip(self.targets[row], self.weights[row], strict=True)]
        q = self.own_rows[t]
        if not conditioned or q < 0 or len(pairs) < 2:
            return pairs
        own = dict(zip(self.own_ids[q].tolist(), self.own_probs[q].tolist(), strict=True))
        rest = self.tail[q] / (1 - sum(self.habits[y] for y in own))
        known = {y: p / self.habits[y] for y, p in own.items() if self.habits[y] > 0}
        if not any(y in own for y, _ in pairs):
            return pairs
        weighted = [(y, w * known.get(y, rest)) for y, w in pairs]
        total = sum(w for _, w in weighted)
        scale = sum(w for _, w in pairs) / total if total else 0.0
        return [(y, w * scale) for y, w in weighted] if total else pairs

    def row(self, t: int, rule: str, conditioned: bool = False) -> dict[int, float]:
        found: dict[int, float] = {}
        if self.rows[t] < 0:
            return {int(self.fallback[t]): 1.0} if self.fallback[t] >= 0 else {}
        for s, value in zip(self.ids[self.rows[t]], self.values[self.rows[t]], strict=True):
            for y, weight in self.carried(t, s, conditioned):
                carried = value + np.log(weight) if rule == "logits" else value * weight
                if rule == "add":
                    found[y] = found.get(y, 0.0) + carried
                elif rule == "logits" or carried > 0:
                    found.setdefault(y, carried)
        return {y: p for y, p in found.items() if rule == "logits" or p > 0}


@given(seeds, st.sampled_from(["add", "first"]), st.booleans())
def test_probabilities_are_carried_as_one_would_by_hand(seed: int, rule: str, conditioned: bool) -> None:
    case = Case(seed)
    own = case.own if conditioned else None
    rows = project(
        case.ids, case.values, case.rows, *case.map,
        fallback_T=case.fallback, first_wins=rule == "first", conditional=own,
    )  # fmt: skip
    for t in range(len(case.rows)):
        span = slice(rows.offsets[t], rows.offsets[t + 1])
        wanted = case.row(t, rule, conditioned)
        if rule == "add":
            wanted = dict(sorted(wanted.items(), key=lambda pair: (-pair[1], pair[0])))
            assert set(rows.ids[span]) == set(wanted)
            assert (np.diff(rows.probs[span]) <= 0).all()
        else:
            assert rows.ids[span].tolist() == list(wanted)
        np.testing.assert_allclose(rows.probs[span], [wanted[y] for y in rows.ids[span]], rtol=1e-12)


@given(seeds)
def test_conditioning_keeps_each_source_tokens_mass(seed: int) -> None:
    case = Case(seed)
    plain = project(case.ids, case.values, case.rows, *case.map)
    found = project(case.ids, case.values, case.rows, *case.map, conditional=case.own)
    np.testing.assert_allclose(
        row_sums(found.offsets, found.probs), row_sums(plain.offsets, plain.probs), rtol=1e-9, atol=1e-12
    )


# One source token that becomes 0, 1 or 2, which the target otherwise writes as often as these habits say.
ONE_ROW = np.array([0, 3]), np.array([0, 1, 2], np.int32), np.array([0.5, 0.25, 0.25], np.float32)
HABITS = np.array([0.2, 0.1, 0.01, 0.09, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])


def one_row(ids: list[int], probs: list[float], tail: float, row: int = 0) -> dict[int, float]:
    """Return what becomes of the source's 0.9 on that token where the target has captured this."""
    own = condition(np.array([ids], np.int32), np.array([probs]), np.array([tail]), np.array([row]), HABITS)
    found = project(np.zeros((1, 1), np.int32), np.full((1, 1), 0.9), np.zeros(1, int), *ONE_ROW, conditional=own)
    return dict(zip(found.ids.tolist(), found.probs.tolist(), strict=True))


def test_conditioning_follows_what_the_target_expects_beyond_its_habits() -> None:
    found = one_row([1, 5], [0.8, 0.1], 0.1)
    rest = 0.1 / 0.8  # what it left out is spread as its habits are
    weighted = {0: 0.5 * rest, 1: 0.25 * 0.8 / 0.1, 2: 0.25 * rest}
    assert found == pytest.approx({y: 0.9 * w / sum(weighted.values()) for y, w in weighted.items()})
    assert one_row([1, 5], [0.8, 0.2], 0.0) == pytest.approx({1: 0.9})  # it left nothing out: the others cannot be


@pytest.mark.parametrize(
    "silent",
    [
        pytest.param(([1, 5], [0.8, 0.1], 0.1, -1), id="the target has no row there"),
        pytest.param(([6, 7], [0.6, 0.4], 0.0), id="it left nothing out and kept none of the ids"),
        pytest.param(([6, 7], [0.6, 0.3], 0.1), id="it kept none of the ids"),
        pytest.param(([1, 5], [0.0, 1.0], 0.0), id="it rules all of them out"),
        pytest.param(([0, 1, 2], [0.2, 0.1, 0.01], 0.69), id="it expects just its habits"),
    ],
)
def test_where_the_target_says_nothing_a_row_stays_what_was_counted(silent: tuple) -> None:
    """P(y|s), as it was counted: a token of many in the language stays rare where the source's token makes it rare."""
    assert one_row(*silent) == pytest.approx({0: 0.45, 1: 0.225, 2: 0.225}, rel=1e-12)


@given(seeds)
def test_logits_are_carried_in_the_sources_order(seed: int) -> None:
    case = Case(seed)
    logits = np.random.default_rng(seed).normal(0, 5, case.values.shape).astype(np.float16).astype(np.float32)
    case.values = logits.astype(np.float64)
    offsets, ids, found = project_logits(case.ids, logits, case.rows, *case.map, fallback_T=case.fallback)
    for t in range(len(case.rows)):
        span, wanted = slice(offsets[t], offsets[t + 1]), case.row(t, "logits")
        assert ids[span].tolist() == list(wanted)
        np.testing.assert_allclose(found[span], list(wanted.values()), rtol=1e-12)


@pytest.mark.parametrize("size", [0, 1, 5, NARROW, NARROW + 1, 300])
def test_rows_of_any_width_are_sorted_alike(size: int) -> None:
    rng = np.random.default_rng(size)
    ids, probs = rng.permutation(1000)[:size].astype(np.int32), rng.integers(0, 6, size) / 8
    wanted = sorted(zip(-probs, ids, strict=True))
    sort_row(ids, probs, 0, size)
    assert list(zip(-probs, ids, strict=True)) == wanted


@given(seeds, st.sampled_from([1, 2, 5, 1 << 22]), st.booleans())
def test_how_many_positions_are_carried_at_a_time_changes_nothing(seed: int, tile: int, logits: bool) -> None:
    case = Case(seed)

    def found() -> list[bytes]:
        if logits:
            values = case.values.astype(np.float32)
            arrays = project_logits(case.ids, values, case.rows, *case.map, fallback_T=case.fallback)
        else:
            rows = project(
                case.ids, case.values, case.rows, *case.map,
                fallback_T=case.fallback, conditional=case.own, min_probability=0.1,
            )  # fmt: skip
            arrays = (rows.offsets, rows.ids, rows.probs)
        return [array.tobytes() for array in arrays]

    whole, before = found(), projection.TILE
    projection.TILE = tile
    try:
        assert found() == whole
    finally:
        projection.TILE = before


def test_no_positions_at_all() -> None:
    rows = project(np.zeros((0, K), np.int32), np.zeros((0, K)), np.zeros(0, np.int64), *ONE_ROW)
    assert rows.offsets.tolist() == [0] and len(rows.ids) == len(rows.probs) == 0
