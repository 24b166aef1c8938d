"""Ensembles over spans: against a plain reference, and against what must hold of any mixture."""

# legend: C chunks, S members

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.ensemble import member_spans, mix_spans
from logitfuse.kernels.scores import ScoredChunks

Tokens = tuple[int, list[tuple[int, float]]]  # where the first one begins, and (end, nats) of each


def boundaries(member: Tokens) -> list[int]:
    begin, tokens = member
    found = {end for end, _ in tokens if end >= 0}
    return sorted(found | ({begin} if tokens and begin >= 0 else set()))


def reference_spans(members: list[Tokens]) -> list[tuple[int, int, list[float | None]]]:
    """(begin, end, nats of each member that scores it) of each span of a chunk, by sets."""
    own = [boundaries(member) for member in members]
    cuts = [
        q for q in sorted({q for b in own for q in b}) if all(q in b for b in own if b and b[0] < q < b[-1])
    ]  # fmt: skip
    found = []
    for low, high in pairwise(cuts):
        nats: list[float | None] = []
        for (begin, tokens), b in zip(members, own, strict=True):
            if not b or b[0] > low or b[-1] < high:
                nats.append(None)
                continue
            mine = [q for q in cuts if b[0] <= q <= b[-1]]
            start = 0 if begin == mine[0] else [end for end, _ in tokens].index(mine[0]) + 1
            total = 0.0
            for n, (_, token_nats) in enumerate(tokens[start:], start):  # a token counts where the next known end lies
                reached = next((end for end, _ in tokens[n:] if end >= 0), math.inf)
                first = low == mine[0] == reached  # a token without text, after the one that ends there
                total += token_nats if low < reached <= high or first else 0.0
            nats.append(total)
        found.append((low, high, nats))
    return found


def reference_mixture(
    chunks: list[list[Tokens]], begins: list[bool], weights: list[float], bayes: bool
) -> list[list[tuple[int, int, float]]]:
    """(begin, end, nats) of each scored span of each chunk."""
    found, now = [], []
    for members, begin in zip(chunks, begins, strict=True):
        if begin:
            now = [w / sum(weights) for w in weights]
        found.append([])
        for low, high, nats in reference_spans(members):
            awake = [s for s, n in enumerate(nats) if n is not None]
            if not awake:
                break
            probability = sum(now[s] * math.exp(-nats[s]) for s in awake) / sum(now[s] for s in awake)
            if bayes:
                for s in awake:
                    now[s] *= math.exp(-nats[s]) / probability
            found[-1].append((low, high, max(-math.log(probability), 0.0)))
    return found


def stacked(chunks: list[list[Tokens]], s: int) -> ScoredChunks:
    tokens = [token for members in chunks for token in members[s][1]]
    return ScoredChunks(
        np.cumsum([0, *(len(members[s][1]) for members in chunks)]),
        np.array([members[s][0] for members in chunks], np.int64),
        np.array([end for end, _ in tokens], np.int64),
        np.array([nats for _, nats in tokens], np.float64),
    )


@st.composite
def texts(draw: st.DrawFn) -> list[list[Tokens]]:
    """Chunks as two to four members read them: late beginnings, early ends, ends within characters, empty tokens."""
    members = draw(st.integers(1, 4))
    nats = st.floats(0, 6).map(lambda value: round(value, 3))

    def tokens() -> Tokens:
        edges = sorted(draw(st.sets(st.integers(0, 12), max_size=9)))
        begin = edges[0] if edges and draw(st.integers(0, 9)) else -1
        found: list[tuple[int, float]] = []
        for end in edges[1:]:
            found += [(-1, draw(nats))] if draw(st.integers(0, 4)) == 0 else []
            found += [(end, draw(nats))]
            found += [(end, draw(nats))] if draw(st.integers(0, 9)) == 0 else []
        return begin if found else -1, found

    return [[tokens() for _ in range(members)] for _ in range(draw(st.integers(1, 3)))]


def mixed(chunks: list[list[Tokens]], begins: list[bool], weights: list[float], bayes: bool) -> ScoredChunks:
    spans = member_spans([stacked(chunks, s) for s in range(len(chunks[0]))])
    return mix_spans(spans, np.array(begins), np.array(weights, np.float64), bayes=bayes)


def listed(found: ScoredChunks, c: int) -> list[tuple[int, int, float]]:
    part = slice(found.offsets[c], found.offsets[c + 1])
    ends = found.ends[part].tolist()
    return list(zip([found.begin[c], *ends[:-1]], ends, found.nats[part].tolist(), strict=False)) if ends else []


@given(texts(), st.booleans(), st.data())
def test_it_is_the_reference(chunks: list[list[Tokens]], bayes: bool, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.sampled_from([0.5, 1, 3]), min_size=len(chunks[0]), max_size=len(chunks[0])))
    begins = [True, *data.draw(st.lists(st.booleans(), min_size=len(chunks) - 1, max_size=len(chunks) - 1))]
    found = mixed(chunks, begins, weights, bayes)
    for c, wanted in enumerate(reference_mixture(chunks, begins, weights, bayes)):
        here = listed(found, c)
        assert [span[:2] for span in here] == [span[:2] for span in wanted]
        np.testing.assert_allclose([span[2] for span in here], [span[2] for span in wanted], atol=1e-9)


whole = st.integers(2, 4).flatmap(
    lambda members: st.lists(
        st.tuples(st.sets(st.integers(1, 9), max_size=6), st.lists(st.floats(0.01, 5), min_size=7, max_size=7)),
        min_size=members, max_size=members,
    )
)  # fmt: skip


def readings(drawn: list[tuple[set[int], list[float]]]) -> list[Tokens]:
    """The same ten bytes as each member reads them, all from the first byte to the last."""
    return [(0, list(zip(sorted(ends | {10}), nats, strict=False))) for ends, nats in drawn]


@given(whole)
def test_bayes_from_the_start_of_a_document_is_the_mixture_of_whole_texts(drawn: list) -> None:
    """So it is a distribution over texts if each member is, however they cut them."""
    members = readings(drawn)
    totals = np.array([sum(nats for _, nats in tokens) for _, tokens in members])
    found = mixed([members], [True], [1.0] * len(members), bayes=True)
    assert found.nats.sum() == pytest.approx(-math.log(np.exp(-totals).mean()))


@given(whole)
def test_a_mean_is_between_its_members_and_no_worse_than_the_mean_of_their_losses(drawn: list) -> None:
    members = readings(drawn)
    spans = member_spans([stacked([members], s) for s in range(len(members))])
    found = mix_spans(spans, np.array([True]), np.ones(len(members)), bayes=False)
    nats_SB = spans.nats[:, 1:]
    assert (found.nats >= nats_SB.min(axis=0) - 1e-9).all() and (found.nats <= nats_SB.mean(axis=0) + 1e-9).all()


@given(whole)
def test_one_member_and_twice_the_same_are_that_member(drawn: list) -> None:
    member = readings(drawn)[0]
    alone = mixed([[member]], [True], [1.0], bayes=False)
    twice = mixed([[member, member]], [True], [1.0, 2.0], bayes=True)
    assert alone.ends.tolist() == twice.ends.tolist() == [end for end, _ in member[1]]
    np.testing.assert_allclose(alone.nats, [nats for _, nats in member[1]])
    np.testing.assert_allclose(twice.nats, alone.nats, atol=1e-12)


def test_bytes_that_one_member_does_not_score_are_the_others() -> None:
    without_start = (3, [(5, 1.0), (9, 1.0)])
    short_context = (0, [(3, 2.0), (5, 2.0)])
    found = mixed([[without_start, short_context]], [True], [1.0, 1.0], bayes=False)
    assert listed(found, 0) == [(0, 3, 2.0), (3, 5, pytest.approx(-math.log((math.exp(-1) + math.exp(-2)) / 2))),
                                (5, 9, 1.0)]  # fmt: skip


def test_what_no_member_scores_ends_the_chunk() -> None:
    """One ends inside a token with which the other begins: nobody has scored all of what lies between."""
    found = mixed([[(0, [(4, 1.0), (8, 1.0)]), (6, [(10, 1.0), (12, 1.0)])]], [True], [1.0, 1.0], bayes=False)
    assert listed(found, 0) == [(0, 4, 1.0)]


def test_very_unlikely_text_stays_finite() -> None:
    members = [(0, [(n, 900.0 + n) for n in range(1, 9)]), (0, [(n, 1000.0) for n in range(1, 9)])]
    for bayes in (False, True):
        found = mixed([members], [True], [1.0, 1.0], bayes=bayes)
        assert np.isfinite(found.nats).all() and found.nats[0] == pytest.approx(901 + math.log(2))
