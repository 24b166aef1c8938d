"""Pieces become the bytes that the tokenizers' own decoders write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, pre_tokenizers

from logitfuse.kernels.pieces import BYTE_ALPHABET, byte_pieces, piece_bytes


def test_byte_alphabet_is_the_tokenizers_own() -> None:
    assert set(BYTE_ALPHABET) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_ALPHABET.values()) == list(range(256))


@given(st.text(min_size=1))
def test_byte_level_inverts_the_pre_tokenizer(text: str) -> None:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    found = piece_bytes([piece for piece, _ in split], "byte_level")
    assert b"".join(piece or b"" for piece in found) == text.encode()


@given(st.binary(min_size=1))
def test_byte_level_may_cut_a_character(data: bytes) -> None:
    spelled = {byte: character for character, byte in BYTE_ALPHABET.items()}
    assert piece_bytes(["".join(spelled[byte] for byte in data)], "byte_level") == [data]


@given(st.lists(st.text(alphabet="aé▁日<0xF>", min_size=1), min_size=1))
def test_sentencepiece_agrees_with_its_decoder(pieces: list[str]) -> None:
    decoder = decoders.Replace("▁", " ")
    found = piece_bytes(pieces, "sentencepiece")
    assert b"".join(piece or b"" for piece in found).decode() == decoder.decode(pieces)


def test_sentencepiece_bytes_and_spaces() -> None:
    pieces = ["▁", "▁▁a", "<0x0A>", "<0xe2>", "<0x0A>x", "<0xZZ>", None, "", "</s>"]
    wanted = [b" ", b"  a", b"\n", b"\xe2", b"<0x0A>x", b"<0xZZ>", None, None, None]
    assert piece_bytes(pieces, "sentencepiece", special_ids={8}) == wanted
    assert byte_pieces(pieces, "sentencepiece") == {2: 10, 3: 0xE2}


def test_byte_pieces_are_sentencepieces_alone() -> None:
    assert piece_bytes(["<0x0A>"], "byte_level") == [b"<0x0A>"]
    assert byte_pieces(["<0x0A>"], "byte_level") == {}


def test_wordpiece_continuations() -> None:
    assert piece_bytes(["ing", "##ing", "##", "#"], "wordpiece") == [b"ing", b"ing", None, b"#"]


def test_added_tokens_stand_for_their_own_characters() -> None:
    # As a model piece, "é" is the byte 0xE9; as an added token it is the letter.
    assert piece_bytes(["é", "é"], "byte_level", literal_ids=[1]) == [b"\xe9", "é".encode()]
    assert piece_bytes(["  ", "Ġ "], "byte_level") == [b"  ", "Ġ ".encode()]
    assert piece_bytes(["▁", "▁"], "sentencepiece", literal_ids=[1]) == [b" ", "▁".encode()]


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of vocabulary 'morse'"):
        piece_bytes(["a"], "morse")  # type: ignore[arg-type]
