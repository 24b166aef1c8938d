"""Tests that tell whether fused targets are worth learning from: against a language whose truth can be written down.

The language: a Markov chain over the letters a, b, c. Both tokenizers cut greedily; the source knows "ab", the target
"bc". So, behind a letter, each model's exact next-token distribution is a product of transition probabilities, and so
is what an ideal map makes of the source's. Any slip of a position shows as a total variation ten times the bounds here.
"""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from logitfuse.kernels.alignment import ALIGNMENTS, Side, Spelling, VocabularyPair, read_side
from logitfuse.kernels.headroom import OwnPredictions, TokenClass, gold_nats, token_classes
from logitfuse.kernels.projection import Conditional, project
from logitfuse.kernels.sparse import Sparse
from logitfuse.kernels.vocabulary_map import identity_map

SOURCE, TARGET = ["a", "b", "c", "ab"], ["a", "b", "c", "bc"]
CHAIN = np.array([[0.2, 0.5, 0.3], [0.25, 0.15, 0.6], [0.55, 0.35, 0.1]])  # row: the letter before
LETTERS = 4000
NO_PAIR = VocabularyPair(Spelling([], ""), Spelling([], ""), np.zeros(1, np.int64), *(np.zeros(0, np.int32),) * 2)


class Read(NamedTuple):
    """The text as one model reads it."""

    ids: NDArray[np.int32]
    ends: NDArray[np.int32]
    side: Side


def truth(pieces: list[str]) -> NDArray[np.float64]:
    """Return the exact next-token distribution behind each letter, [3, V]: greedy, so "b" is not followed by "c"."""
    probs = np.zeros((3, len(pieces)))
    for before in range(3):
        for token, piece in enumerate(pieces):
            first = "abc".index(piece[0])
            joins = [CHAIN[first, "abc".index(p[1])] for p in pieces if len(p) == 2 and p[0] == piece[0]]
            follow = joins[0] if len(piece) == 2 else 1 - sum(joins)
            probs[before, token] = CHAIN[before, first] * follow
    return probs


@cache
def text() -> str:
    rng = np.random.default_rng(0)
    letters = [0]
    while len(letters) < LETTERS:
        letters.append(int(rng.choice(3, p=CHAIN[letters[-1]])))
    return "".join("abc"[letter] for letter in letters)


def read(pieces: list[str]) -> Read:
    ids, at = [], 0
    while at < len(text()):
        ids.append(max((i for i, p in enumerate(pieces) if text().startswith(p, at)), key=lambda i: len(pieces[i])))
        at += len(pieces[ids[-1]])
    return as_read(ids, np.cumsum([len(pieces[i]) for i in ids]))


def as_read(ids: list[int], ends: NDArray[np.integer]) -> Read:
    tokens, ends = np.array(ids, np.int32), ends.astype(np.int32)
    offsets = np.array([0, len(tokens)], np.int64)
    return Read(tokens, ends, read_side(tokens, ends, offsets, np.array([False]), start=False, end=None))


def serve(source: Side, target: Side) -> NDArray[np.int64]:
    return ALIGNMENTS.get("offsets")(source, target, NO_PAIR)


def behind(pieces: list[str], side: Side) -> NDArray[np.float64]:
    """Return the exact next-token distribution at every position of the text."""
    return truth(pieces)[["abc".index(text()[byte - 1]) for byte in side.bytes_P]]


def ideal_map() -> NDArray[np.float64]:
    """Return P(target token | source token) at a common boundary: exact, since the chain forgets all but one letter."""
    merge = CHAIN[1, 2]  # a "b" that the source wrote alone goes on with "c": the target writes "bc"
    return np.array([[1, 0, 0, 0], [0, 1 - merge, 0, merge], [0, 0, 1, 0], [1, 0, 0, 0]])


def sparse_map(weights_SV: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    rows, ids = np.nonzero(weights_SV)
    offsets = np.searchsorted(rows, np.arange(len(weights_SV) + 1)).astype(np.int64)
    return offsets, ids.astype(np.int32), weights_SV[rows, ids].astype(np.float32)


def dense(rows: Sparse, width: int) -> NDArray[np.float64]:
    out = np.zeros((len(rows), width))
    out[np.repeat(np.arange(len(rows)), rows.counts), rows.ids] = rows.probs
    return out


def carried(weights_SV: NDArray[np.float64], shift: int = 0, conditional: bool = False) -> tuple[Sparse, NDArray]:
    """Return what the target would be taught on the text, and the serving positions; `shift` slips them on purpose."""
    source, target = read(SOURCE).side, read(TARGET).side
    serving = serve(source, target)
    slipped = np.where((serving >= 0) & (serving + shift < len(source.bytes_P)), serving + shift, -1)
    probs = behind(SOURCE, source)
    own = None
    if conditional:
        q = behind(TARGET, target)
        ids_QK = np.tile(np.arange(4, dtype=np.int32), (len(q), 1))
        own = Conditional(ids_QK, q, np.zeros(len(q)), np.arange(len(q)))
    ids_PK = np.tile(np.arange(4, dtype=np.int32), (len(probs), 1))
    return project(ids_PK, probs, slipped, *sparse_map(weights_SV), conditional=own), serving


def distance(rows: Sparse) -> NDArray[np.float64]:
    """Return the total variation from the truth at every served position."""
    off = np.abs(dense(rows, 4) - behind(TARGET, read(TARGET).side)).sum(axis=1) / 2
    return off[rows.counts > 0]


def test_the_language_is_worth_the_name() -> None:
    for pieces in (SOURCE, TARGET):
        np.testing.assert_allclose(truth(pieces).sum(axis=1), 1)
    serving = serve(read(SOURCE).side, read(TARGET).side)
    assert 0.6 < (serving >= 0).mean() < 0.95


def test_the_same_tokenizer_on_both_sides_is_the_identity() -> None:
    target = read(TARGET)
    serving = serve(target.side, target.side)
    assert serving.tolist() == list(range(len(target.side.bytes_P)))
    probs, m = behind(TARGET, target.side), identity_map(4)
    ids = np.tile(np.arange(4, dtype=np.int32), (len(probs), 1))
    rows = project(ids, probs, serving, m.offsets, m.target_ids, m.weights)
    np.testing.assert_array_equal(dense(rows, 4), probs)


def test_an_ideal_map_gives_the_true_distribution_at_every_position() -> None:
    rows, serving = carried(ideal_map())
    np.testing.assert_array_equal(rows.counts > 0, serving >= 0)
    assert distance(rows).max() < 1e-6


@pytest.mark.parametrize("shift", [-1, 1])
def test_one_position_off_is_far_off(shift: int) -> None:
    rows, _ = carried(ideal_map(), shift)
    assert distance(rows).mean() > 0.1


def test_a_counted_map_is_as_near_as_its_counts_allow() -> None:
    source, target = read(SOURCE), read(TARGET)
    counts = np.zeros((4, 4))
    serving = serve(source.side, target.side)
    for t in np.flatnonzero(serving >= 0):
        counts[source.ids[serving[t] + 1], target.ids[t + 1]] += 1
    rows, _ = carried(counts / counts.sum(axis=1, keepdims=True))
    # Only the split of "b" is estimated: an error of d in it is one of at most d in the distribution.
    assert distance(rows).max() < 4 * np.sqrt(0.25 / counts[1].sum()) < 0.1


def test_the_first_piece_errs_by_what_the_target_writes_longer() -> None:
    """Mapping "b" to "b" alone, all that the target writes as "bc" behind a lone "b" is given to the wrong token."""
    first_piece = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0.0]])
    rows, _ = carried(first_piece)
    wrong = behind(TARGET, read(TARGET).side)[:, 3]
    np.testing.assert_allclose(distance(rows), wrong[rows.counts > 0], atol=1e-6)


def test_conditioning_is_exact_for_how_likely_the_target_token_makes_the_source_token() -> None:
    """P(y | s) ∝ P(s | y) q(y). A map that already holds P(y | s) counts the target's habits twice."""
    likelihood = np.array([[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0], [1, 0, 0, 0]])  # both always begin with "b"
    assert distance(carried(likelihood, conditional=True)[0]).max() < 1e-6
    twice = distance(carried(ideal_map(), conditional=True)[0])
    assert 0.02 < twice.max() < 0.15


def nats_by_class(shift: int) -> dict[TokenClass, tuple[float, float]]:
    """Return for each class the mean nats of the target's token and of the source's tokens up to the next boundary."""
    source, target = read(SOURCE), read(TARGET)
    rows, serving = carried(ideal_map(), shift)
    classes = token_classes(next_ends(source), next_ends(target), serving)
    q = behind(TARGET, target.side)
    labels = target.side.labels()
    own = OwnPredictions(np.log(q[np.arange(len(q)), labels]), np.tile(np.arange(4, dtype=np.int32), (len(q), 1)), q)
    found = gold_nats(rows, rows.mass, labels, own, "bucket")
    paid = np.concatenate([[0], np.cumsum(-np.log(chosen(behind(SOURCE, source.side), source.side.labels())))])
    served = np.append(np.flatnonzero(serving >= 0), len(serving))
    until = {a: b for a, b in pairwise(served) if b < len(serving)}
    own_paid = np.array([paid[serving[until[t]]] - paid[serving[t]] if t in until else np.nan for t in range(len(q))])
    kept = np.isfinite(own_paid) & np.isfinite(found)
    return {
        TokenClass(kind): (found[kept & (classes == kind)].mean(), own_paid[kept & (classes == kind)].mean())
        for kind in (TokenClass.SAME, TokenClass.LONGER, TokenClass.SHORTER)
    }


def next_ends(side: Read) -> NDArray[np.int64]:
    return side.ends[1:].astype(np.int64)


def chosen(probs: NDArray[np.float64], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    return probs[np.arange(len(labels)), labels]


def test_no_class_costs_more_than_the_source_itself_pays_up_to_the_next_boundary() -> None:
    found = nats_by_class(0)
    assert len(found) == 3
    for kind, (fused, paid) in found.items():
        assert fused <= paid + 0.02, kind
    assert any(fused > paid + 0.1 for fused, paid in nats_by_class(1).values()), "an off-by-one must not pass"


# Pieces as bytes. One tokenizer falls back on single bytes, the other cuts characters in two; one adds a space.
UNSTEADY = ["naïve 👩‍👩‍👧 family", "日本語のテキスト", "🦙🦙 x", "aé", "👍🏽!", " ", "plain text"]


def byte_fallback(words: str) -> list[bytes]:
    return [bytes([b]) for c in words for b in c.encode()]


def halves(words: str) -> list[bytes]:
    """Whole letters, and every other character in two parts that are no characters."""
    pieces = [(c.encode()[:2], c.encode()[2:]) if len(c.encode()) > 2 else (c.encode(),) for c in words]
    return [part for parts in pieces for part in parts if part]


def wholes(words: str) -> list[bytes]:
    return [(" " if i else "").encode() + word.encode() for i, word in enumerate(words.split(" "))]


def dummy_prefix(words: str) -> list[bytes]:
    return [b"", *halves(words)]  # a lone marker before the text stands for nothing of it


CUTS = [byte_fallback, halves, wholes, dummy_prefix]


def pieces_read(pieces: list[bytes]) -> Read:
    sizes = np.array([len(p) for p in pieces])
    tokens, ends = np.zeros(len(pieces), np.int32), np.cumsum(sizes).astype(np.int32)
    offsets = np.array([0, len(pieces)], np.int64)
    return Read(tokens, ends, read_side(tokens, ends, offsets, np.array([False]), start=True, end=None))


@pytest.mark.parametrize("source_cut", CUTS)
@pytest.mark.parametrize("target_cut", CUTS)
@pytest.mark.parametrize("words", UNSTEADY)
def test_what_serves_a_position_has_read_what_it_has_read_and_not_a_byte_more(source_cut, target_cut, words) -> None:
    source_pieces, target_pieces = source_cut(words), target_cut(words)
    serving = serve(pieces_read(source_pieces).side, pieces_read(target_pieces).side)
    assert (serving >= 0).any()
    for t, p in enumerate(serving):
        if p >= 0:
            assert b"".join(source_pieces[:p]) == b"".join(target_pieces[:t])


@pytest.mark.parametrize("source_cut", CUTS)
@pytest.mark.parametrize("target_cut", CUTS)
@pytest.mark.parametrize("words", UNSTEADY)
def test_another_future_changes_nothing(source_cut, target_cut, words) -> None:
    """The source here predicts a fixed function of the bytes it has read: what it tells may depend on nothing else."""
    futures = [words + "tail", words + "👨‍🚀🌒", words + " zz", words]
    told: list[dict[bytes, list[float]]] = []
    for whole in futures:
        source_pieces, target_pieces = source_cut(whole), target_cut(whole)
        serving = serve(pieces_read(source_pieces).side, pieces_read(target_pieces).side)
        probs = np.array([predicted(b"".join(source_pieces[:p])) for p in range(len(source_pieces))])
        ids = np.tile(np.arange(4, dtype=np.int32), (len(probs), 1))
        rows = dense(project(ids, probs, serving, *sparse_map(np.eye(4))), 4)
        told.append({b"".join(target_pieces[:t]): rows[t].tolist() for t in np.flatnonzero(serving >= 0)})
    for other in told[1:]:
        shared = [prefix for prefix in told[0].keys() & other.keys() if words.encode().startswith(prefix)]
        assert shared
        for prefix in shared:
            assert told[0][prefix] == other[prefix]


def predicted(seen: bytes) -> NDArray[np.float64]:
    return np.random.default_rng(list(seen)).dirichlet(np.ones(4))
