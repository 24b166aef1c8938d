"""Which text is worth learning from, and what is left of the targets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.fusion.advantage import advantage, held_back
from logitfuse.kernels.fusion.distributions import Distributions

SCORE = st.one_of(st.just(np.inf), st.floats(0, 9))


@given(st.lists(st.tuples(SCORE, SCORE, SCORE), min_size=1, max_size=9), st.integers(0, 2), st.integers(0, 2))
def test_advantage_is_the_definition(columns: list[tuple[float, ...]], own: int, unused: int) -> None:
    priors = np.ones(3)
    priors[unused] = 0
    found = advantage(np.array(columns).T, own, priors)
    for at, scores in enumerate(columns):
        others = [score for s, score in enumerate(scores) if s not in (own, unused)]
        best = min(others)
        wanted = -np.inf if np.isinf(best) or np.isinf(scores[own]) else scores[own] - best
        assert found[at] == wanted


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=9))
def test_rows_that_are_held_back_are_empty_and_no_other_changes(rows: list[tuple[int, bool]]) -> None:
    counts, worth = [n for n, _ in rows], np.array([w for _, w in rows], np.bool_)
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    whole = Distributions(
        offsets,
        np.arange(offsets[-1], dtype=np.int32),
        -np.arange(offsets[-1], dtype=np.float32),
        1.0 * np.array(counts),
    )
    found = held_back(whole, worth)
    for t, (count, kept) in enumerate(rows):
        row = found.ids[found.offsets[t] : found.offsets[t + 1]].tolist()
        assert row == (list(range(offsets[t], offsets[t] + count)) if kept else [])
        assert found.mass[t] == (count if kept else 0)
