"""Chunks give the text back, stay within their size and end at the best border there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.chunks import SMALLEST_CHUNK, chunk_borders, cut

TEXTS = st.text(
    st.sampled_from("ab .!?\n\r\t\"')é漢。！？😀\u200d\u0301") | st.characters(exclude_categories=["Cs"]),
    max_size=300,
)


@given(TEXTS, st.integers(SMALLEST_CHUNK, 60))
def test_chunks_joined_are_the_text_and_none_is_too_long(text: str, max_bytes: int) -> None:
    chunks = cut(text, max_bytes)
    assert "".join(chunks) == text
    assert all(len(chunk.encode()) <= max_bytes for chunk in chunks)
    assert all(chunks) or chunks == [""]


@given(TEXTS, st.integers(SMALLEST_CHUNK, 60))
def test_every_chunk_but_the_last_fills_half_of_its_size(text: str, max_bytes: int) -> None:
    smallest = max_bytes // 2 - 3  # a four-byte character may straddle the half
    assert all(len(chunk.encode()) > smallest for chunk in cut(text, max_bytes)[:-1])


@given(TEXTS, st.integers(SMALLEST_CHUNK, 60))
def test_borders_are_the_same_for_text_and_bytes(text: str, max_bytes: int) -> None:
    borders = chunk_borders(text, max_bytes)
    assert borders == chunk_borders(text.encode(), max_bytes)
    assert borders == sorted(set(borders))
    assert borders[-1] == len(text.encode())


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("one two\n\nthree four five\nsix. seven", "one two\n\n"),
        ("one two three\nfour. five six seven", "one two three\n"),
        ("one two. 3. four five six seven", "one two. 3."),
        ('one "two." three four five six', 'one "two."'),
        ("one two three four five six seven", "one two three"),
        ("onetwothreefourfivesixseven", "onetwothreefourf"),
        ("漢字漢字漢字漢字", "漢字漢字漢"),
        ("漢字漢。漢字漢字", "漢字漢。"),
        ("one two\r\n\r\nthree four", "one two\r\n\r\n"),
        ("one two \n\n\n\n three four five", "one two \n\n\n\n"),
        ("a\n\nbcdefghijklmnopqrstuvwxyz", "a\n\nbcdefghijklmn"),  # a border in the first half would make chunks small
    ],
)
def test_the_best_border_in_the_second_half_wins(text: str, first: str) -> None:
    assert cut(text, 16)[0] == first


def test_the_latest_border_of_a_kind_wins() -> None:
    assert cut("a b c d e f g h i j k l", 16)[0] == "a b c d e f g h"
    assert cut("aaaaaaaaa\nb\nc\ndddddddddd", 16)[0] == "aaaaaaaaa\nb\nc\n"


def test_a_text_that_fits_is_one_chunk() -> None:
    assert cut("", 16) == [""]
    assert chunk_borders(b"", 16) == [0]
    assert cut("sixteen bytes ok", 16) == ["sixteen bytes ok"]


def test_a_size_too_small_for_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        cut("text", SMALLEST_CHUNK - 1)


def test_time_grows_with_the_text_only() -> None:
    text = "x" * 2_000_000  # no border anywhere: every class is searched in every window
    assert len(cut(text, 1000)) == 2000
