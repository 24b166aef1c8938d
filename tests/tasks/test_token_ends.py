"""Byte ends of tokens: known ones are never wrong, whatever the tokenizer does to the text."""

import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from small_tokenizers import LLAMA, TEXTS, TILING, built, byte_level, check_order, read_so_far, sentencepiece
from tokenizers import AddedToken

from logitfuse.tasks.models.token_ends import certain_ends, tiled_ends
from logitfuse.tasks.models.vocabulary import (
    encode_text,
    encode_texts,
    read_vocabulary,
)


@pytest.mark.parametrize("name", TILING)
@given(text=TEXTS)
def test_tokens_tile_the_text(name: str, text: str) -> None:
    tokenizer, vocabulary = built(name)
    text = text.replace("▁", "_")
    ids, ends = encode_text(tokenizer, vocabulary, text)
    check_order(ends, text)
    raw = text.encode()
    for read, end in zip(read_so_far(vocabulary, ids), ends, strict=True):
        assert read in (raw[:end], b" " + raw[:end])
        assert end >= 0
    assert (ends[-1] == len(raw)) if len(ids) else (text == "")


NORMALISED: dict[str, Callable[[str], str]] = {
    "byte-level, NFC": lambda text: unicodedata.normalize("NFC", text),
    "byte-level, lower case": lambda text: "".join(
        c for c in unicodedata.normalize("NFD", text).lower() if unicodedata.category(c)[0] != "M"
    ),
    "llama": lambda text: " " + text.replace("▁", " "),
    "gemma": lambda text: text.replace("▁", " "),
}


@pytest.mark.parametrize("name", NORMALISED)
@given(text=TEXTS)
def test_known_ends_are_right_where_the_text_is_normalised(name: str, text: str) -> None:
    tokenizer, vocabulary = built(name)
    ids, ends = encode_text(tokenizer, vocabulary, text)
    check_order(ends, text)
    for read, end in zip(read_so_far(vocabulary, ids), ends, strict=True):
        if end >= 0 and read is not None:
            try:
                consumed = text.encode()[:end].decode()
            except UnicodeDecodeError:
                continue  # inside a character; covered by its last part and by the order
            assert read.decode(errors="replace") == NORMALISED[name](consumed)


@pytest.mark.parametrize("name", ["unigram", "wordpiece"])
@given(text=TEXTS)
def test_known_ends_are_right_around_unknown_tokens(name: str, text: str) -> None:
    """Between two known ends with no unknown token, what the tokens say is what stands there, spaces aside."""
    tokenizer, vocabulary = built(name)
    ids, ends = encode_text(tokenizer, vocabulary, text)
    check_order(ends, text)
    start, read = 0, ""
    for token, end in zip(ids, ends, strict=True):
        piece = vocabulary.texts[token]
        read = read + (piece.decode() if piece is not None else "\0")
        if end >= 0:
            consumed = text.encode()[start:end].decode()
            if "\0" not in read and name == "wordpiece":
                consumed = "".join(consumed.replace("\u200d", "").split())  # this tokenizer deletes both
                assert read == NORMALISED["byte-level, lower case"](consumed)
            elif "\0" not in read:
                assert read.strip() == consumed.replace("▁", " ").strip()
            start, read = int(end), ""


def test_a_normalised_text_keeps_most_ends() -> None:
    tokenizer, vocabulary = built("byte-level, NFC")
    text = "the cat " * 20 + "e\u0301" + " the cat" * 20
    _, ends = encode_text(tokenizer, vocabulary, text)
    assert (ends >= 0).mean() > 0.95 and ends[-1] == len(text.encode())
    tokenizer, vocabulary = built("byte-level, lower case")
    text = "The Cat Sat On The Mat"
    assert (encode_text(tokenizer, vocabulary, text)[1] >= 0).all()


def test_composed_characters_end_where_their_parts_end() -> None:
    tokenizer, vocabulary = built("byte-level, NFC")
    ids, ends = encode_text(tokenizer, vocabulary, "e\u0301x")  # é is two bytes, made from three
    assert [vocabulary.texts[i] for i in ids] in ([b"\xc3\xa9", b"x"], [b"\xc3", b"\xa9", b"x"])
    assert ends.tolist()[-2:] == [3, 4] and set(ends.tolist()[:-2]) <= {-1}


@pytest.mark.parametrize(("text", "wanted"), [("\u0301\u0301\u0323x", {6, 7}), ("q\u0307\u0323x", {1, 5, 6})])
def test_marks_that_change_places_end_together(text: str, wanted: set[int]) -> None:
    tokenizer, vocabulary = built("byte-level, NFC")
    _, ends = encode_text(tokenizer, vocabulary, text)
    assert set(ends.tolist()) - {-1} == wanted


def test_a_dummy_prefix_is_not_text() -> None:
    tokenizer, vocabulary = built("llama")
    assert vocabulary.dummy_prefix and not built("gemma")[1].dummy_prefix
    ids, ends = encode_text(tokenizer, vocabulary, "日a")
    assert [vocabulary.pieces[i] for i in ids] == ["▁", "<0xE6>", "<0x97>", "<0xA5>", "a"]
    assert ends.tolist() == [0, 1, 2, 3, 4]


def test_unknown_tokens_end_where_their_characters_end() -> None:
    tokenizer, vocabulary = built("wordpiece")
    ids, ends = encode_text(tokenizer, vocabulary, "the 😀, CAT")
    assert [vocabulary.pieces[i] for i in ids] == ["the", "[UNK]", ",", "cat"]
    assert ends.tolist() == [3, 8, 9, 13]


@pytest.mark.parametrize("name", ["byte-level", "llama", "gemma", "metaspace"])
def test_a_spelled_out_special_token_is_text(name: str) -> None:
    tokenizer, vocabulary = built(name)
    text = "the <s></s><|end|> cat"
    ids, ends = encode_text(tokenizer, vocabulary, text)
    assert not vocabulary.special_ids & set(ids.tolist())
    assert (ends >= 0).all() and ends[-1] == len(text)


def test_added_tokens_stand_for_their_characters() -> None:
    for builder in (byte_level, lambda: sentencepiece(LLAMA)):
        tokenizer = builder()
        tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<unused0>", normalized=False)])
        vocabulary = read_vocabulary(tokenizer)
        ids, ends = encode_text(tokenizer, vocabulary, "the\n\ncat <unused0>é")
        pieces = [vocabulary.pieces[i] for i in ids]
        known = dict(zip(pieces, ends.tolist(), strict=True))
        assert known["\n\n"] == 5 and known["<unused0>"] == 18 and ends[-1] == 20
        assert vocabulary.texts[ids[pieces.index("\n\n")]] == b"\n\n"


def test_an_unknown_token_has_no_end_where_marks_may_change_places() -> None:
    def ends(text: str) -> list[int]:
        spans = [(i, i + 1) for i in range(len(text))]
        found = certain_ends(spans, [None] * len(text), text, lambda piece: unicodedata.normalize("NFC", piece))
        return found.tolist()

    assert ends("\u0301\u0323") == [-1, -1]
    assert ends("\u0301\u0323x") == [-1, -1, 5]
    assert ends("日\u0323x") == [-1, 5, 6]


def test_truncation_padding_and_templates_do_not_touch_the_text() -> None:
    tokenizer = sentencepiece(LLAMA)
    vocabulary = read_vocabulary(tokenizer)
    wanted = encode_texts(tokenizer, vocabulary, ["the cat sat", "a"])
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=30)
    for (ids, ends), (other_ids, other_ends) in zip(
        encode_texts(tokenizer, vocabulary, ["the cat sat", "a"]), wanted, strict=True
    ):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(ends, other_ends)
    assert tokenizer("a").input_ids[0] == 1  # the tokenizer itself still puts <s> first
    assert tokenizer("<s>", add_special_tokens=False).input_ids == [1]


def test_tiling_is_refused_where_bytes_differ() -> None:
    texts, lengths = [b"a", b" ", None, b"bc"], np.array([1, 1, -1, 2], np.int32)

    def ends(ids: list[int], text: bytes) -> list[int] | None:
        found = tiled_ends(np.array(ids, np.int32), texts, lengths, text)
        return None if found is None else found.tolist()

    assert ends([0, 3], b"abc") == [1, 3]
    assert ends([1, 0, 3], b"abc") == [0, 1, 3]
    assert ends([0, 3], b"abd") is None
    assert ends([0, 0, 3], b"abc") is None  # one byte more than the text, and it is no space
    assert ends([1, 1, 0], b"a") is None  # one space may come before the text, not two
    assert ends([0, 2], b"a") is None
    assert ends([0], b"") is None
    assert ends([], b"a") is None
    assert ends([], b"") == []
