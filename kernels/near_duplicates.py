"""Find documents that share long runs of words with others, so that training text does not leak into held-out text.

A document is seen as its words: runs of ASCII letters and digits (lower-cased) and of non-ASCII bytes. A shingle is
the 64-bit hash of 13 consecutive words, as in the decontamination of GPT-3 and The Pile.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Hashes = npt.NDArray[np.uint64]

SHINGLE_WORDS = 13

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_ROLL = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing modulo 2**64
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ZERO, _ONE = np.uint64(0), np.uint64(1)


def _fold_table() -> npt.NDArray[np.uint8]:
    """Map each byte to the byte that stands for it in a word, or to 0 where it separates words."""
    table = np.zeros(256, np.uint8)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return table


_FOLD = _fold_table()


class ShingleIndex(NamedTuple):
    """Shingles to look others up in; made by `build_index`."""

    values: Hashes  # [N] sorted, unique
    buckets: npt.NDArray[np.int64]  # [2**bits + 1] where the values with these leading bits begin
    shift: int  # 64 - bits


def normalise(text: bytes) -> bytes:
    """Return the words of UTF-8 `text`, lower-cased (ASCII), joined by single spaces: equal for the same wording."""
    return _normalise(_view(text), _FOLD).tobytes()


def shingles(text: bytes, words: int = SHINGLE_WORDS) -> Hashes:
    """Return the hash of every run of `words` words, uint64 [max(1, n - words + 1)], in order.

    A shorter text gives one hash, of all its words; a text without words gives none.
    """
    if words < 1:
        raise ValueError(f"a shingle needs at least one word, not {words}")
    return _shingles(_view(text), _FOLD, words)


def build_index(parts: Iterable[Hashes]) -> ShingleIndex:
    """Gather the shingles of many documents into an index: 12 bytes a shingle, 24 while it is built."""
    values = np.concatenate([np.zeros(0, np.uint64), *parts])
    values.sort()
    values = values[np.append(True, values[1:] != values[:-1])[: values.size]]
    bits = max(1, int(values.size).bit_length() - 2)  # two to four values a bucket, so one cache line
    shift = 64 - bits
    firsts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(shift)
    buckets = np.append(np.searchsorted(values, firsts), values.size).astype(np.int64)
    return ShingleIndex(values, buckets, shift)


def overlap(text: bytes, index: ShingleIndex, words: int = SHINGLE_WORDS) -> float:
    """Return the share (0 to 1) of the text's shingles that stand in the index; 0 for a text without words."""
    shared, runs = count_shared(text, index, words)
    return shared / runs if runs else 0.0


def count_shared(text: bytes, index: ShingleIndex, words: int = SHINGLE_WORDS) -> tuple[int, int]:
    """Return how many of the text's shingles stand in the index, and how many it has."""
    found = shingles(text, words)
    return int(_count_members(found, index.values, index.buckets, np.uint64(index.shift))), found.size


def _view(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


@njit(cache=True)
def _normalise(text: Any, fold: Any) -> Any:
    out = np.empty(text.size, np.uint8)
    size = 0
    gap = False
    for byte in text:
        letter = fold[byte]
        if letter == 0:
            gap = size > 0
            continue
        if gap:
            out[size] = 32
            size += 1
            gap = False
        out[size] = letter
        size += 1
    return out[:size]


@njit(cache=True)
def _mix(value: Any) -> Any:
    """Spread a hash over all 64 bits (the finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@njit(cache=True)
def _shingles(text: Any, fold: Any, words: int) -> Any:
    oldest_weight = _ONE
    for _ in range(words - 1):
        oldest_weight *= _ROLL
    window = np.zeros(words, np.uint64)  # the hashes of the last words, a ring
    out = np.empty(text.size // 2 + 1, np.uint64)  # a word and the gap after it take at least two bytes
    seen = 0
    rolling = _ZERO
    word = _FNV_OFFSET
    inside = False
    for position in range(text.size + 1):
        letter = fold[text[position]] if position < text.size else np.uint8(0)
        if letter != 0:
            word = (word ^ np.uint64(letter)) * _FNV_PRIME
            inside = True
        elif inside:
            slot = seen % words
            rolling = (rolling - window[slot] * oldest_weight) * _ROLL
            window[slot] = _mix(word)
            rolling += window[slot]
            seen += 1
            if seen >= words:
                out[seen - words] = _mix(rolling)
            word = _FNV_OFFSET
            inside = False
    if 0 < seen < words:
        out[0] = _mix(rolling)
    return out[: 0 if seen == 0 else max(1, seen - words + 1)]


@njit(cache=True)
def _count_members(wanted: Any, values: Any, buckets: Any, shift: Any) -> int:
    count = 0
    for value in wanted:
        bucket = np.int64(value >> shift)
        for position in range(buckets[bucket], buckets[bucket + 1]):
            if values[position] == value:
                count += 1
                break
    return count
