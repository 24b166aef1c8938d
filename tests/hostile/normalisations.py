"""What normalisers do to a text, in plain Python: an oracle that shares no code with the `tokenizers` library."""

import unicodedata
from collections.abc import Callable

Normalise = Callable[[str], str]


def as_it_is(text: str) -> str:
    return text


def form(name: str) -> Normalise:
    return lambda text: unicodedata.normalize(name, text)


def lower(text: str) -> str:
    return "".join(character.lower() for character in text)  # by itself: a final sigma is like any other


def without_marks(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c)[0] != "M")


def bare(text: str) -> str:
    return lower(without_marks(text))


def spaces_for_marks(text: str) -> str:
    """To SentencePiece its mark is a space."""
    return text.replace("▁", " ")


def single_spaced(text: str) -> str:
    while "  " in text:
        text = text.replace("  ", " ")
    return text


def straight_quotes(text: str) -> str:
    return text.replace("``", '"').replace("''", '"')


def cleaned(text: str) -> str:
    """BERT's cleaning: controls and the replacement character go."""
    return "".join(
        c for c in text if not (c in "\x00\ufffd" or (unicodedata.category(c)[0] == "C" and c not in "\t\n\r"))
    )


def uncased(text: str) -> str:
    """BERT's cleaning and lower case; it strips non-spacing marks only."""
    text = unicodedata.normalize("NFD", cleaned(text))
    return lower("".join(c for c in text if unicodedata.category(c) != "Mn"))


def nmt(text: str) -> str:
    """SentencePiece's `nmt_nfkc`: some controls go, invisible characters become spaces, then NFKC."""
    gone = {*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F}
    space = {0x09, 0x0A, 0x0C, 0x0D, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD}
    text = "".join(" " if ord(c) in space else c for c in text if ord(c) not in gone)
    return unicodedata.normalize("NFKC", text)
