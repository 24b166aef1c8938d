"""Cut a document into chunks that, concatenated, are the document again: by bytes, at natural borders, no tokenizer."""

import re

SMALLEST_CHUNK = 4  # bytes: the longest UTF-8 character must fit

# From the best border to the worst. Each pattern ends where a chunk may end. A space goes to the chunk it leads
# into, because most tokenizers write a word together with the space before it; a line feed stays with its line.
_BORDERS = (
    re.compile(rb"(?<=\n)\n|(?<=\n\r)\n"),
    re.compile(rb"\n"),
    re.compile(
        rb"[.!?][\"')\]]*(?=[ \t\r])|\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f"
    ),  # the last three: 。 ! ?, full width
    re.compile(rb"[^ \t\r](?=[ \t\r])"),
)


def cut(text: str, max_bytes: int) -> list[str]:
    """Cut `text` into chunks of at most `max_bytes` bytes of UTF-8; joined, they are `text`.

    An empty text gives one empty chunk. Raises UnicodeEncodeError if the text has lone surrogates.
    """
    data = text.encode()
    chunks, start = [], 0
    for end in chunk_borders(data, max_bytes):
        chunks.append(data[start:end].decode())
        start = end
    return chunks


def chunk_borders(text: bytes | str, max_bytes: int) -> list[int]:
    """Return the byte at which each chunk ends, the last being the text's length; the text must be valid UTF-8.

    A chunk ends at the latest paragraph end in the second half of its `max_bytes`; failing that at the latest line
    end, sentence end, white space, or else after the last whole character. Takes time linear in the text.
    """
    if max_bytes < SMALLEST_CHUNK:
        raise ValueError(f"max_bytes must be at least {SMALLEST_CHUNK} to hold any character, not {max_bytes}")
    data = text.encode() if isinstance(text, str) else text
    borders, start = [], 0
    while len(data) - start > max_bytes:
        start = _last_border(data, start + max_bytes // 2, start + max_bytes)
        borders.append(start)
    return [*borders, len(data)]


def _last_border(data: bytes, low: int, high: int) -> int:
    """Return the best border b with low < b <= high."""
    for pattern in _BORDERS:
        if border := _last_end(pattern, data, low, high):
            return border
    while data[high] & 0xC0 == 0x80:  # a continuation byte: the character began before it
        high -= 1
    return high


def _last_end(pattern: re.Pattern[bytes], data: bytes, low: int, high: int) -> int | None:
    last = None
    for match in pattern.finditer(data, low, high + 1):  # one byte more: the white space that follows a border
        if low < match.end() <= high:
            last = match.end()
    return last
