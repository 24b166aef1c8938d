"""What kind of writing each token stands for, so that a report can say where two tokenizers part. L tokens."""

import unicodedata
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Script(IntEnum):
    """A kind of writing; `LABELS` says what reports call it."""

    LATIN = 0
    DIGITS = 1
    CJK = 2
    LETTERS = 3
    MARKS = 4
    SYMBOLS = 5
    SPACE = 6


LABELS = {
    Script.LATIN: "Latin",
    Script.DIGITS: "digits",
    Script.CJK: "CJK",
    Script.LETTERS: "other letters",
    Script.MARKS: "punctuation, code",
    Script.SYMBOLS: "emoji, symbols",
    Script.SPACE: "white space",
}
# Blocks of Chinese, Japanese and Korean writing with their own punctuation and full-width forms.
_CJK = ((0x1100, 0x11FF), (0x2E80, 0x9FFF), (0xAC00, 0xD7FF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))


@lru_cache(maxsize=65536)
def script_of(character: str) -> Script:
    """Return a character's script; ASCII signs such as `{` and `=` count as code, other symbols do not."""
    category = unicodedata.category(character)
    if character.isspace():
        return Script.SPACE
    if category[0] == "N":
        return Script.DIGITS
    if any(first <= ord(character) <= last for first, last in _CJK):
        return Script.CJK
    if category[0] in "LM":
        return Script.LATIN if "LATIN" in unicodedata.name(character, "") else Script.LETTERS
    return Script.MARKS if character.isascii() or category[0] == "P" else Script.SYMBOLS


def token_scripts(text: str, ends: NDArray[np.integer]) -> NDArray[np.int8]:
    """Return the script of each token int8 [L]: that of its first character that is no white space.

    `ends` [L] are the tokens' byte ends, -1 where not known; such a token is taken to begin at the last known end.
    """
    scripts = _byte_scripts(text)
    size = len(scripts)
    # The first byte from each one on that is no white space; past the text, the text's end.
    places = np.where(scripts != Script.SPACE, np.arange(size), size)
    following = np.append(np.minimum.accumulate(places[::-1])[::-1], size) if size else np.zeros(1, np.int64)
    known = np.maximum.accumulate(np.concatenate([[0], ends]))
    starts, stops = known[:-1], np.where(ends >= 0, ends, size)
    at = following[starts]
    return np.where(at < stops, np.append(scripts, Script.SPACE)[at], Script.SPACE).astype(np.int8)


def _byte_scripts(text: str) -> NDArray[np.int8]:
    sizes = [len(character.encode()) for character in text]
    return np.repeat(np.array([script_of(character) for character in text], np.int8), sizes)
