"""The paper's alignment, as fast code does it, against the published code's steps on random vocabularies and texts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published.alignment import edits, matches, published_alignment

from logitfuse.kernels.alignment import ALIGNMENTS, Side, Spelling, VocabularyPair, read_side
from logitfuse.kernels.alignment.warping import Costs, matched_sources
from logitfuse.kernels.projection import project_logits
from logitfuse.kernels.sparse import log_softmax_rows

texts = st.lists(st.text("abc", max_size=4), max_size=12)
STYLES = [("Ġ", "▁"), ("▁", "Ġ"), ("▁", "▁"), ("Ġ", ""), ("", "▁")]
K = 3


@given(texts, texts, st.sampled_from([None, 1, 2, 3, 5]), st.sampled_from([1, 1 << 20]))
def test_warping_finds_the_published_matches_whatever_is_held_at_a_time(
    source: list[str], target: list[str], block: int | None, cells: int
) -> None:
    first, last = matched_sources(Costs(source, target, cells), block)
    if source and target:
        found = [list(range(a, b + 1)) for a, b in zip(first, last, strict=True)]
        assert found == matches(source, target)
    else:
        assert (first < 0).all() and (last < 0).all()


def test_costs_are_edit_distances_over_code_points() -> None:
    source, target = ["", "é", "日本", "ab", "日本"], ["日", "abc", "", "e\u0301"]
    for cells in (1, 100):
        rows, table = Costs(source, target, cells).of_rows(0, 5)
        assert [[table[r, c] for c in range(4)] for r in rows] == [[edits(a, b) for b in target] for a in source]


class Case:
    """Two random vocabularies, a text in each, and what a source kept after each of its tokens."""

    def __init__(self, rng: np.random.Generator, markers: tuple[str, str], nearest: bool) -> None:
        self.markers = markers
        self.source = self._pieces(rng, markers[0], "<|end|>")
        self.target = self._pieces(rng, markers[1], "</s>")
        respelled = [piece.replace(*markers) if markers[0] else piece for piece in self.source]
        self.map = {p: self._nearest(p) if nearest or p in self.target else None for p in respelled}
        self.targets = [None if (y := self.map[p]) is None else self.target.index(y) for p in respelled]
        self.source_ids = rng.integers(1, len(self.source), rng.integers(1, 9)).tolist() + [0]
        self.target_ids = rng.integers(1, len(self.target), rng.integers(1, 9)).tolist() + [0]
        self.kept = np.array([rng.choice(len(self.source), K, replace=False) for _ in self.source_ids], np.int32)
        self.logits = np.sort(rng.normal(0, 4, self.kept.shape).astype(np.float16))[:, ::-1].astype(np.float32)

    def _pieces(self, rng: np.random.Generator, marker: str, end: str) -> list[str]:
        drawn = ["".join(rng.choice([*"ab", marker or "b"], rng.integers(1, 4))) for _ in range(rng.integers(4, 14))]
        return list(dict.fromkeys([end, *drawn, "a", "b", "ab", f"{marker}a"]))

    def _nearest(self, piece: str) -> str:
        return piece if piece in self.target else min(self.target, key=lambda y: edits(piece, y))

    def pair(self, first_marker: bool) -> VocabularyPair:
        offsets = np.cumsum([0] + [y is not None for y in self.targets])
        ids = np.array([y for y in self.targets if y is not None], np.int32)
        spellings = Spelling([*self.source, None], self.markers[0]), Spelling([None, *self.target], self.markers[1])
        return VocabularyPair(*spellings, offsets, ids + 1, np.ones(len(ids), np.float32), first_marker)

    def wanted(self, nearest: bool, first_marker: bool, longest: int) -> list[tuple[list[float], list[int]]]:
        kept = [
            [(float(z), self.source[s]) for z, s in zip(*row, strict=True)]
            for row in zip(self.logits, self.kept, strict=True)
        ]
        return published_alignment(
            [self.source[s] for s in self.source_ids[:longest]],
            [self.target[t] for t in self.target_ids[:longest]],
            self.markers,
            {piece: number + 1 for number, piece in enumerate(self.target)},
            kept,
            mapping=self.map if nearest else None,
            first_marker=first_marker,
        )


def side_of(ids: list[int], captured: int | None, longest: int | None = None) -> Side:
    """Positions as the published code has them: no start token, an end token, and the position past it."""
    text = np.array(ids[:-1], np.int32)
    cut = None if captured is None else np.array([captured])
    around: dict[str, Any] = {"start": False, "end": ids[-1], "past_end": True}
    offsets, last = np.array([0, len(text)]), np.array([True])
    return read_side(text, text * 0 - 1, offsets, last, **around, captured_C=cut, max_length=longest)


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("markers", [s for s in STYLES if all(s)])
@given(seed=st.integers(0, 1_000_000), first=st.booleans(), longest=st.sampled_from([2, 4, 100]))
def test_it_is_the_published_alignment(
    markers: tuple[str, str], nearest: bool, seed: int, first: bool, longest: int
) -> None:
    case = Case(np.random.default_rng(seed), markers, nearest)
    captured = min(len(case.source_ids), longest)
    source = side_of(case.source_ids, captured)
    target = side_of([t + 1 for t in case.target_ids], None, longest)
    pair = case.pair(first)
    serving = ALIGNMENTS.get("dtw")(source, target, pair)
    offsets, ids, logits = project_logits(
        case.kept[:captured], case.logits[:captured], serving, pair.map_offsets, pair.map_ids, pair.map_weights,
        fallback_T=target.inputs(None),
    )  # fmt: skip
    wanted = case.wanted(nearest, first, longest)
    for t, (wanted_logits, wanted_ids) in enumerate(wanted):
        row = slice(offsets[t], offsets[t + 1])
        assert (logits[row].tolist(), ids[row].tolist()) == (wanted_logits, wanted_ids)
    assert (serving[len(wanted) :] == -1).all()


def test_the_marker_before_a_text() -> None:
    """MPT writes `Hello`, Llama `▁Hello`; `Hello` alone is another token of both."""
    source, target = ["Hello", "ĠHello", "low"], ["▁Hello", "Hello", "▁lower"]
    one = np.array([0, 1, 2, 3])
    pair = VocabularyPair(
        Spelling(source, "Ġ"), Spelling(target, "▁"), one, np.array([1, 0, 2], np.int32), np.ones(3, np.float32), True
    )

    def served(s: int, t: int, **options: str) -> bool:
        return bool(ALIGNMENTS.get("dtw")(side_of([s, 1], None), side_of([t, 0], None), pair, **options)[0] == 0)

    assert served(0, 0)  # spelled alike once the marker is there
    assert served(0, 1)  # a target without a marker is compared as it is
    assert not served(2, 2)  # the map knows no `▁low`, though it sends `low` there
    assert not served(0, 0, first_marker="no") and served(2, 2, first_marker="no")


def test_start_tokens_serve_each_other_and_only_each_other() -> None:
    pair = VocabularyPair(
        Spelling(["a"], ""), Spelling(["b"], ""), np.array([0, 0]), np.zeros(0, np.int32), np.zeros(0, np.float32)
    )
    ids, offsets, last = np.zeros(1, np.int32), np.array([0, 1]), np.array([False])
    for source_start in (True, False):
        for target_start in (True, False):
            source, target = (
                read_side(ids, ids, offsets, last, start=s, end=None) for s in (source_start, target_start)
            )
            serving = ALIGNMENTS.get("dtw")(source, target, pair)
            assert serving.tolist() == ([0] if source_start else [-1]) * target_start


def test_log_softmax_is_over_each_row_and_empty_rows_are_left_out() -> None:
    offsets, logits = np.array([0, 0, 2, 2, 3, 3]), np.array([3.0, 1.0, 1.0])
    found = log_softmax_rows(offsets, logits)
    np.testing.assert_allclose(np.exp(found), [*np.exp([3, 1]) / np.exp([3, 1]).sum(), 1.0], rtol=1e-12)
    assert len(log_softmax_rows(np.zeros(3, np.int64), np.zeros(0))) == 0
