"""The map `learned` against plain counting, on made-up cuts and on a toy language whose truth is known."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.conditioning import condition
from logitfuse.kernels.projection import project
from logitfuse.kernels.registry import BadOption
from logitfuse.kernels.vocabulary_map import (
    VOCABULARY_MAPS,
    How,
    MapContext,
    TwiceCut,
    VocabularyMap,
    VocabularyView,
    one_to_one,
    tokens_to_fit,
)
from logitfuse.kernels.vocabulary_map import next_tokens as counting
from logitfuse.kernels.vocabulary_map.learned import with_prior
from logitfuse.kernels.vocabulary_map.next_tokens import NextTokens, count_next_tokens

S, V = 6, 5
VIEWS = VocabularyView([bytes([c]) for c in b"abcdef"]), VocabularyView([bytes([c]) for c in b"cbazz"])


def side(ids: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Tokens as (id, bytes), some bytes unknown (-1); ids beyond the head among them."""
    return st.lists(st.tuples(st.integers(0, ids), st.integers(-1, 3)), max_size=12)


CHUNKS = st.lists(st.tuples(side(S), side(V)), max_size=5)


def cut(source: list[tuple[int, int]], target: list[tuple[int, int]]) -> TwiceCut:
    arrays = []
    for tokens in (source, target):
        ends, at = [], 0
        for _, width in tokens:
            at += max(width, 0)
            ends.append(at if width >= 0 else -1)
        arrays += [np.array([token for token, _ in tokens], np.int32), np.array(ends, np.int32)]
    return TwiceCut(*arrays)


def plainly_counted(chunks: list[TwiceCut], at_start: bool) -> Counter[tuple[int, int]]:
    """Byte -> the token that begins there, the last of several; then the bytes that both have."""
    counted: Counter[tuple[int, int]] = Counter()
    for chunk in chunks:
        begins: list[dict[int, int | None]] = []
        for ids, ends in ((chunk.source_ids, chunk.source_ends), (chunk.target_ids, chunk.target_ends)):
            after = zip([0, *ends.tolist()], [*ids.tolist(), None], strict=True)
            begins.append({byte: token for byte, token in after if byte >= 0})
        for byte in begins[0].keys() & begins[1].keys():
            s, y = begins[0][byte], begins[1][byte]
            if s is not None and y is not None and s < S and y < V and (byte > 0 or at_start):
                counted[s, y] += 1
    return counted


def learn(chunks: list[TwiceCut], views: tuple[VocabularyView, VocabularyView] = VIEWS, **options: float):  # type: ignore[no-untyped-def]
    context = MapContext(target_encode=lambda texts: [[] for _ in texts], pairs=chunks)
    return VOCABULARY_MAPS.get("learned")(*views, context, **options)


def rows_of(found: VocabularyMap) -> list[dict[int, float]]:
    spans = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    return [dict(zip(found.target_ids[a:b].tolist(), found.weights[a:b].tolist(), strict=True)) for a, b in spans]


@given(CHUNKS, st.booleans(), st.sampled_from([1, 7, 1 << 22]))
def test_counting_is_plain_counting(chunks: list, at_start: bool, pending: int) -> None:
    cuts = [cut(*chunk) for chunk in chunks]
    before, counting.PENDING = counting.PENDING, pending
    try:
        found = count_next_tokens(cuts, (S, V), at_start=at_start, max_tokens=10**9)
    finally:
        counting.PENDING = before
    keys = list(zip(found.source.tolist(), found.target.tolist(), strict=True))
    assert keys == sorted(keys)
    assert dict(zip(keys, found.times.tolist(), strict=True)) == plainly_counted(cuts, at_start)


@given(
    CHUNKS,
    st.sampled_from([0.0, 0.5, 1.0, 10.0]),
    st.sampled_from([0.0, 1e-4, 0.2, 0.6]),
    st.booleans(),
)
def test_rows_are_counts_and_prior(chunks: list, prior: float, prune: float, dummy_prefix: bool) -> None:
    cuts = [cut(*chunk) for chunk in chunks]
    views = VIEWS[0], VocabularyView(VIEWS[1].texts, dummy_prefix=dummy_prefix)
    found = learn(cuts, views, prior=prior, prune=prune)
    counts: dict[int, dict[int, float]] = defaultdict(dict)
    for (s, y), times in plainly_counted(cuts, at_start=not dummy_prefix).items():
        counts[s][y] = float(times)
    exact = {0: 2, 1: 1, 2: 0}  # a, b, c are in both
    for s, row in enumerate(rows_of(found)):
        expected = dict(counts[s])
        if s in exact and (prior or not counts[s]):
            expected[exact[s]] = expected.get(exact[s], 0.0) + (prior if counts[s] else 1.0)
        total = sum(expected.values())
        kept = {y: v for y, v in expected.items() if v / total >= prune or v == max(expected.values())}
        assert row == pytest.approx({y: v / sum(kept.values()) for y, v in kept.items()}, rel=1e-6)
        assert not row or sum(row.values()) == pytest.approx(1.0, abs=1e-6)
        assert list(row) == sorted(row, key=lambda y: (-expected[y], y))
        assert found.times[s] == (total if counts[s] else 0.0)
        how = How.LEARNED if counts[s] else How.EXACT if s in exact else How.UNMAPPED
        assert (found.how[s], found.distance[s]) == (how, 0 if how == How.EXACT else -1)


def test_what_is_pruned_is_shared_out() -> None:
    source, target = [(3, 1)] * 10, [(0, 1)] * 6 + [(1, 1)] * 3 + [(2, 1)]
    learned = {prune: rows_of(learn([cut(source, target)], prune=prune))[3] for prune in (0.0, 0.2, 0.5, 0.9)}
    assert learned[0.0] == pytest.approx({0: 0.6, 1: 0.3, 2: 0.1})
    assert learned[0.2] == pytest.approx({0: 2 / 3, 1: 1 / 3})
    assert learned[0.5] == learned[0.9] == {0: 1.0}


def test_text_is_read_until_there_is_enough() -> None:
    read = []

    def chunks() -> Iterator[TwiceCut]:
        for number in range(10):
            read.append(number)
            yield cut([(0, 1), (1, 1)], [(0, 1), (1, 1)])

    found = count_next_tokens(chunks(), (S, V), at_start=True, max_tokens=5)
    assert found.times.tolist() == [3, 3] and len(read) <= 4
    assert tokens_to_fit("learned", {"max_tokens": 7}) == 7
    assert tokens_to_fit("learned", {}) == 4_000_000
    assert all(tokens_to_fit(name, {}) is None for name in VOCABULARY_MAPS.names() if name != "learned")


@pytest.mark.parametrize(("option", "value"), [("prior", -1.0), ("prune", 1.0), ("max_tokens", 0)])
def test_options_that_mean_nothing_are_refused(option: str, value: float) -> None:
    with pytest.raises(BadOption, match=option):
        VOCABULARY_MAPS.check_options("learned", {option: value})


def test_without_text_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"context\.pairs"):
        VOCABULARY_MAPS.get("learned")(*VIEWS, MapContext(target_encode=lambda texts: [[] for _ in texts]))


def test_a_known_language_is_learned() -> None:
    """Words foo and foobar: the source cuts foobar in two, the target does not; the truth is their frequency."""
    source = VocabularyView([b" ", b"foo", b"bar"])
    target = VocabularyView([b"foobar", b"foo", b" "])
    words = np.random.default_rng(0).choice(["foo", "foobar"], 20_000, p=[0.7, 0.3])

    def tokens(text: str, pieces: list[bytes], pattern: str) -> list[tuple[int, int]]:
        found = re.findall(pattern, text)
        return [(pieces.index(piece.encode()), len(piece)) for piece in found]

    text = " ".join(words)
    chunk = cut(tokens(text, list(source.texts), "foo|bar| "), tokens(text, list(target.texts), "foobar|foo| "))
    context = MapContext(target_encode=lambda texts: [[] for _ in texts], pairs=[chunk])
    space, foo, bar = rows_of(VOCABULARY_MAPS.get("learned")(source, target, context))
    assert space == {2: 1.0}
    assert foo == pytest.approx({1: 0.7, 0: 0.3}, abs=0.01)
    assert bar == {}  # never begins where a target token begins


def test_rows_that_the_target_weights_are_the_truth() -> None:
    """P(y|s)·q(y)/P(y) is what Bayes' rule makes of P(s|y) and the target's prediction q; P(y|s)·q(y) is not."""
    joint = np.array([[0.30, 0.02, 0.0], [0.10, 0.20, 0.05], [0.0, 0.03, 0.30]])  # [s, y]
    times = np.round(joint * 10_000).astype(np.int64)
    source, target = np.nonzero(times)
    counted = NextTokens(source.astype(np.int64), target.astype(np.int64), times[source, target])
    nothing = one_to_one(np.full(3, -1, np.int32), np.zeros(3, np.int8), np.full(3, -1, np.int32))
    found = with_prior(counted, nothing, (3, 3), 0.0, 0.0)
    for s, row in enumerate(rows_of(found)):
        assert row == pytest.approx({y: joint[s, y] / joint[s].sum() for y in row}, rel=1e-6)
    habits = found.target_habits(3)
    np.testing.assert_allclose(habits, joint.sum(axis=0), rtol=1e-6)
    elsewhere = np.array([[0.1, 0.7, 0.2]])  # what the target predicts here, unlike its habits
    likelihood = joint / joint.sum(axis=0)
    ids = np.arange(3, dtype=np.int32)[None]
    for s in range(3):
        truth = likelihood[s] * elsewhere[0] / (likelihood[s] * elsewhere[0]).sum()
        for known, right in ((habits, True), (np.full(3, 1 / 3), False)):
            own = condition(ids, elsewhere, np.zeros(1), np.zeros(1, int), known)
            rows = project(
                np.array([[s]], np.int32), np.ones((1, 1)), np.zeros(1, int),
                found.offsets, found.target_ids, found.weights, conditional=own,
            )  # fmt: skip
            assert np.allclose(rows.probs[np.argsort(rows.ids)], truth[truth > 0], atol=1e-6) is right


def test_how_often_the_target_writes_what_is_known_only_where_it_was_counted() -> None:
    found = learn([cut([(3, 1)] * 10, [(0, 1)] * 6 + [(1, 1)] * 4)], prior=1.0)
    assert found.times.tolist() == [0, 0, 0, 10, 0, 0]  # d alone; a, b and c have the prior's rows
    assert found.target_habits(V) == pytest.approx([0.6, 0.4, 0, 0, 0])
    found = learn([cut([(1, 1)] * 10, [(0, 1)] * 10)], prior=2.0)
    assert found.times.tolist() == [0, 12, 0, 0, 0, 0]
    assert found.target_habits(V) == pytest.approx([10 / 12, 2 / 12, 0, 0, 0])
    nowhere = one_to_one(np.zeros(3, np.int32), np.zeros(3, np.int8), np.zeros(3, np.int32))
    assert nowhere.times.tolist() == [0, 0, 0] and nowhere.target_habits(4).tolist() == [0.25] * 4


def test_one_tokenizer_on_both_sides_gives_the_identity() -> None:
    rng = np.random.default_rng(0)
    view = VocabularyView([bytes([c]) * (1 + c % 3) for c in b"abcdefg"])
    chunks = []
    for _ in range(20):
        tokens = [(int(t), len(view.texts[t] or b"")) for t in rng.integers(0, 7, 30)]
        chunks.append(cut(tokens, tokens))
    assert rows_of(learn(chunks, (view, view))) == [{token: 1.0} for token in range(7)]


@pytest.mark.models
def test_real_tokenizers_learn_what_first_piece_misses() -> None:
    """On held-out text, the learned rows give the target's own next token far more often."""
    from pathlib import Path

    from logitfuse.tasks.models import vocabulary as v
    from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

    tokenizers = [v.load_tokenizer(tokenizer_folder(name)) for name in ("mpt", "llama-2")]
    vocabularies = [v.read_vocabulary(tokenizer) for tokenizer in tokenizers]
    views = [v.vocabulary_view(vocabulary, vocabulary.size) for vocabulary in vocabularies]
    texts = [path.read_text() for path in sorted(Path(v.__file__).parents[1].rglob("*.py"))]
    encoded = [v.encode_texts(t, w, texts) for t, w in zip(tokenizers, vocabularies, strict=True)]
    chunks = [TwiceCut(*a, *b) for a, b in zip(*encoded, strict=True)]
    shares = {}
    for name in ("first_piece", "learned"):
        context = v.map_context(tokenizers[1], vocabularies[1], pairs=chunks[::2])
        found = rows_of(VOCABULARY_MAPS.get(name)(*views, context))
        counted = count_next_tokens(chunks[1::2], (len(found), vocabularies[1].size), at_start=False, max_tokens=10**9)
        given_mass = [found[s].get(y, 0.0) for s, y in zip(counted.source, counted.target, strict=True)]
        shares[name] = float((counted.times * given_mass).sum() / counted.times.sum())
        for row in found:
            assert not row or sum(row.values()) == pytest.approx(1.0, abs=1e-6)
    assert shares["learned"] > shares["first_piece"] + 0.02, shares
