"""Alignment by bytes against its definition, chunk by chunk, and the sides it works on against the plain positions."""

from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.alignment import ALIGNMENTS, Side, Spelling, VocabularyPair, one_to_one, read_side
from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels, positions

NO_PAIR = VocabularyPair(Spelling([], ""), Spelling([], ""), np.zeros(1, np.int64), *(np.zeros(0, np.int32),) * 2)
START, END = 90, 91


class Chunk(NamedTuple):
    ends: list[int]
    last: bool


def _rising(values: list[int]) -> list[int]:
    known = iter(sorted(v for v in values if v >= 0))
    return [-1 if v < 0 else next(known) for v in values]


chunks = st.lists(st.builds(Chunk, st.lists(st.integers(-1, 12), max_size=10).map(_rising), st.booleans()), max_size=5)


def side_of(batch: list[Chunk], start: bool, end: bool, past_end: bool, captured: list[int] | None = None) -> Side:
    lengths = [len(chunk.ends) for chunk in batch]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.arange(offsets[-1], dtype=np.int32)
    ends = np.array([e for chunk in batch for e in chunk.ends], np.int32)
    last = np.array([chunk.last for chunk in batch], bool)
    limit = None if captured is None else np.array(captured, np.int64)
    return read_side(
        ids, ends, offsets, last, start=start, end=END if end else None, past_end=past_end, captured_C=limit
    )


def rows(side: Side, values: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(values, side.position_offsets[1:-1])] if len(side.read_C) else []


@given(chunks, st.booleans(), st.booleans(), st.booleans())
def test_a_side_is_its_chunks_positions(batch: list[Chunk], start: bool, end: bool, past_end: bool) -> None:
    side = side_of(batch, start, end, past_end)
    found = zip(*(rows(side, v) for v in (side.bytes_P, side.inputs(START), side.labels(), side.numbers)), strict=True)
    first_id = 0
    for chunk, (read, inputs, labels, numbers) in zip(batch, found, strict=True):
        length = len(chunk.ends)
        ids = np.arange(first_id, first_id + length, dtype=np.int32)
        first_id += length
        ended = end and chunk.last
        first, count = positions(length, start=start, end=ended, past_end=past_end)
        assert read == consumed_bytes(np.array(chunk.ends, np.int32), first, count).tolist()
        around = {"start": START if start else None, "end": END if ended else None}
        assert [inputs, labels] == [part.tolist() for part in inputs_and_labels(ids, **around, past_end=past_end)]
        assert numbers == list(range(first, first + count))


@given(chunks, st.booleans(), st.booleans(), st.booleans(), st.data())
def test_a_position_is_served_by_the_last_one_that_read_the_same(
    batch: list[Chunk], start: bool, end: bool, past_end: bool, data: st.DataObject
) -> None:
    drawn = st.lists(st.integers(-1, 12), max_size=10).map(_rising)
    others = [Chunk(data.draw(drawn), chunk.last) for chunk in batch]
    captured = [data.draw(st.integers(0, 12)) for _ in batch]
    source = side_of(batch, start, end, past_end, captured)
    target = side_of(others, data.draw(st.booleans()), end, past_end)
    found = rows(target, ALIGNMENTS.get("offsets")(source, target, NO_PAIR))
    together = zip(found, rows(source, source.bytes_P), rows(target, target.bytes_P), strict=True)
    for begin, (serving, source_bytes, target_bytes) in zip(source.position_offsets, together, strict=False):
        for t, byte in enumerate(target_bytes):
            last_here = byte >= 0 and byte not in target_bytes[t + 1 :]
            same = [p for p in range(len(source_bytes)) if byte >= 0 and source_bytes[p] == byte]
            assert serving[t] == (begin + same[-1] if last_here and same else -1)


@given(chunks, st.booleans(), st.booleans(), st.data())
def test_one_tokenizer_on_both_sides_matches_positions_by_number(
    batch: list[Chunk], source_start: bool, target_start: bool, data: st.DataObject
) -> None:
    captured = [data.draw(st.integers(0, 12)) for _ in batch]
    source = side_of(batch, source_start, True, False, captured)
    target = side_of(batch, target_start, True, False)
    together = zip(rows(target, one_to_one(source, target)), rows(source, source.numbers), strict=True)
    for begin, (serving, there) in zip(source.position_offsets, together, strict=False):
        for t, found in enumerate(serving):
            number = t + target.first
            assert found == (begin + there.index(number) if number in there else -1)


@given(chunks, st.booleans(), st.data())
def test_what_a_short_context_never_read_is_not_aligned(batch: list[Chunk], start: bool, data: st.DataObject) -> None:
    captured = [data.draw(st.integers(0, 12)) for _ in batch]
    side = side_of(batch, start, True, True, captured)
    for chunk, kept, read in zip(batch, captured, side.read_C, strict=True):
        first, count = positions(len(chunk.ends), start=start, end=chunk.last, past_end=True)
        tokens = len(chunk.ends) + (chunk.last and bool(chunk.ends))
        assert read == (tokens if kept >= count else max(first + kept - 1, 0) if kept else 0)


def test_positions_with_and_without_start_and_end() -> None:
    ids = np.array([7, 8, 9], np.int32)
    assert positions(3, start=True, end=False) == (0, 3)
    assert positions(3, start=False, end=False) == (1, 2)
    assert positions(3, start=True, end=True) == (0, 4)
    assert positions(0, start=True, end=True) == (0, 0)
    pairs = [
        (1, 2, [1, 7, 8, 9], [7, 8, 9, 2]),
        (1, None, [1, 7, 8], [7, 8, 9]),
        (None, None, [7, 8], [8, 9]),
        (None, 2, [7, 8, 9], [8, 9, 2]),
    ]
    for start, end, inputs, labels in pairs:
        found = inputs_and_labels(ids, start=start, end=end)
        assert [part.tolist() for part in found] == [inputs, labels]
    assert [len(part) for part in inputs_and_labels(ids[:0], start=1, end=2)] == [0, 0]
    assert len(inputs_and_labels(ids[:1], start=None, end=None)[0]) == 0
    assert consumed_bytes(np.array([2, 5, 9]), 1, 3).tolist() == [2, 5, 9]
    assert consumed_bytes(np.array([2, 5, 9]), 0, 3).tolist() == [0, 2, 5]
