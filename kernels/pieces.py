"""Vocabulary pieces as the bytes of text they stand for, so that vocabularies of any kind can be compared."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Literal, get_args

Kind = Literal["byte_level", "sentencepiece", "wordpiece"]

SPACE_MARK = "▁"  # what SentencePiece writes for a space
CONTINUATION_MARK = "##"  # what WordPiece writes before a piece that continues a word
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


def piece_bytes(
    pieces: Sequence[str | None],
    kind: Kind,
    special_ids: Collection[int] = (),
    literal_ids: Collection[int] = (),
) -> list[bytes | None]:
    """Return for every id the bytes of text its piece stands for, or None where it stands for none.

    None: holes in the vocabulary (None in `pieces`), special tokens, empty pieces. `literal_ids` are added tokens,
    which stand for their own characters. A byte-level piece may end inside a character; a piece with a character
    outside the byte alphabet is literal, as in the tokenizer's own decoder. SentencePiece: `▁` is a space, `<0xNN>`
    that byte. WordPiece: `##ing` and `ing` both are b"ing", since a piece that starts a word does not say whether a
    space precedes it.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind of vocabulary {kind!r}. Known: {', '.join(get_args(Kind))}.")
    special, literal = frozenset(special_ids), frozenset(literal_ids)
    to_bytes = _TO_BYTES[kind]
    texts: list[bytes | None] = []
    for token, piece in enumerate(pieces):
        if not piece or token in special:
            texts.append(None)
        else:
            texts.append((piece.encode() if token in literal else to_bytes(piece)) or None)
    return texts


def byte_pieces(pieces: Sequence[str | None], kind: Kind) -> dict[int, int]:
    """Return id → byte for the `<0xNN>` pieces of a SentencePiece vocabulary; other kinds have none.

    A byte-level vocabulary's single bytes are ordinary pieces: its tokenizer uses them for ordinary text.
    """
    if kind != "sentencepiece":
        return {}
    matches = ((token, _BYTE_PIECE.fullmatch(piece)) for token, piece in enumerate(pieces) if piece)
    return {token: int(match[1], 16) for token, match in matches if match}


def _byte_level(piece: str) -> bytes:
    try:
        return bytes([BYTE_ALPHABET[character] for character in piece])
    except KeyError:
        return piece.encode()


def _sentencepiece(piece: str) -> bytes:
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE_MARK, " ").encode()


def _wordpiece(piece: str) -> bytes:
    return piece.removeprefix(CONTINUATION_MARK).encode()


_TO_BYTES: dict[Kind, Callable[[str], bytes]] = {
    "byte_level": _byte_level,
    "sentencepiece": _sentencepiece,
    "wordpiece": _wordpiece,
}
