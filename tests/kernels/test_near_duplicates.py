"""The compiled functions equal a plain reading of the definition."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.near_duplicates import build_index, normalise, overlap, shingles

MASK = 2**64 - 1
TEXTS = st.text(st.sampled_from("abcXYZ09 \n.,-_é漢"), max_size=120).map(str.encode)


def words_of(text: bytes) -> list[bytes]:
    return re.findall(rb"[0-9a-z\x80-\xff]+", text.lower())


def mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def word_hash(word: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in word:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return mix(value)


def shingles_reference(text: bytes, words: int) -> list[int]:
    hashes = [word_hash(word) for word in words_of(text)]
    runs = [hashes[i : i + words] for i in range(max(1, len(hashes) - words + 1))] if hashes else []
    out = []
    for run in runs:
        value = 0
        for word in run:
            value = (value * 0x9E3779B97F4A7C15 + word) & MASK
        out.append(mix(value))
    return out


@given(TEXTS, st.integers(1, 15))
def test_shingles_are_the_reference(text: bytes, words: int) -> None:
    assert shingles(text, words).tolist() == shingles_reference(text, words)


@given(st.binary(max_size=60))
def test_normalising_is_the_reference(text: bytes) -> None:
    assert normalise(text) == b" ".join(words_of(text))


@given(st.lists(TEXTS, max_size=5), TEXTS, st.integers(1, 3))
def test_overlap_is_the_reference(held_out: list[bytes], text: bytes, words: int) -> None:
    index = build_index(shingles(other, words) for other in held_out)
    known = {value for other in held_out for value in shingles_reference(other, words)}
    mine = shingles_reference(text, words)
    expected = sum(value in known for value in mine) / len(mine) if mine else 0.0
    assert overlap(text, index, words) == expected


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_the_index_finds_its_own_values_and_no_others(size: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**64, size, np.uint64)
    index = build_index([values, values])
    assert index.values.tolist() == sorted(values.tolist())
    assert index.buckets[-1] == size
    assert overlap(b"one word", index) == 0.0


def test_extreme_hashes_fall_into_buckets() -> None:
    ends = np.array([0, 1, 2**63, MASK], np.uint64)
    assert build_index([ends]).buckets[[0, -1]].tolist() == [0, 4]


def test_wording_counts_and_punctuation_does_not() -> None:
    index = build_index([shingles(b"The quick brown fox jumps over the lazy dog.")])
    assert overlap(b"the QUICK, brown fox; jumps over the lazy dog", index) == 1.0
    assert overlap(b"the quick brown fox jumps over a lazy dog", index) == 0.0


def test_a_shared_passage_gives_its_share() -> None:
    shared = b" ".join(b"word%d" % i for i in range(30))
    index = build_index([shingles(shared)])
    text = shared + b" " + b" ".join(b"other%d" % i for i in range(30))
    assert overlap(text, index) == pytest.approx(18 / 48)


def test_a_shingle_of_no_words_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one word"):
        shingles(b"a", 0)
