"""Where in a text's UTF-8 bytes each token ends, from the bytes tokens stand for. Legend: L tokens of one text.

A wrong end would let a model see the future, so an end that is not certain is -1.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
REACH = 512  # characters since the last known end over which normalising is still looked into: it takes time
# Vowels and finals of Hangul, and Katakana's half-width sound marks: no marks by category, yet composed like them.
JOINED_TO_THE_LAST = re.compile("[\u1160-\u11ff\ud7b0-\ud7ff\uff9e\uff9f]")

Ids = NDArray[np.int32]
Ends = NDArray[np.int32]


def tiled_ends(ids: Ids, texts: Sequence[bytes | None], lengths: NDArray[np.int32], text: bytes) -> Ends | None:
    """Return the byte end of each token int32 [L] if the tokens' bytes, one after another, are the text; else None.

    `texts[id]` are a token's bytes and `lengths[id]` their number, -1 without text. A space that the tokenizer puts
    before the text is not part of it: a first token of nothing else ends at byte 0. A byte token or a byte-level
    piece may end inside a character.
    """
    sizes = lengths[ids]
    if len(sizes) == 0 or sizes.min() < 0:
        return None if text or len(sizes) else np.zeros(0, np.int32)
    surplus = int(sizes.sum()) - len(text)
    if surplus not in (0, 1):
        return None
    joined = b"".join([texts[i] for i in ids.tolist()])  # no None: every length is known
    if joined[surplus:] != text or (surplus and joined[:1] != b" "):
        return None
    return (np.cumsum(sizes) - surplus).astype(np.int32)


def certain_ends(
    spans: Sequence[tuple[int, int]],
    token_texts: Sequence[bytes | None],
    text: str,
    normalised: Callable[[str], str],
) -> Ends:
    """Return byte ends int32 [L] from the tokenizer's character spans, where the tokens do not tile the text.

    Spans alone do not tell: normalising reorders and joins characters. So tokens are read in groups whose spans do
    not overlap, and a group's last token has an end if all tokens since the last known end say what stands there, as
    it is (then its other tokens have theirs too) or as `normalised`. After tokens that do not, reading starts anew
    before the next character that normalising keeps apart from what is before it.
    """
    ends = np.full(len(spans), UNKNOWN, np.int32)
    if not spans:
        return ends
    byte_at = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text])])
    groups = _groups(spans)
    starts = [min(start for start, _ in spans[a:b]) for a, b in groups]
    pending: tuple[int, int] | None = None  # first token and first character since the last known end
    sure = 0  # the last known end, in characters
    for (a, b), start, following in zip(groups, starts, [*starts[1:], len(text)], strict=True):
        if pending is None or _stands_apart(text, start):
            pending = (a, start)
        first, begin = pending
        stop = max(end for _, end in spans[a:b])
        # A normaliser that composes characters may leave the last ones outside of every span.
        for end in dict.fromkeys((stop, following)):
            within = _ends_within(token_texts[first:b], _Piece(text, sure, begin, end, following), normalised)
            if within is not None:
                ends[first:b] = np.where(within < 0, within, within + byte_at[begin])
                pending, sure = None, end
                break
    return ends


class _Piece(NamedTuple):
    """The characters begin..end of a text, with those since the last known end before them and some after them."""

    text: str
    since: int
    begin: int
    end: int
    until: int

    @property
    def here(self) -> str:
        return self.text[self.begin : self.end]

    def is_cut_out_by(self, normalised: Callable[[str], str]) -> bool:
        """Return whether normalising what lies around changes nothing across its borders, white space aside.

        A normaliser that replaces two characters by one gives spans of one of them: the other must not be left out.
        """
        if self.begin - self.since > REACH:
            return False
        before, after = self.text[self.since : self.begin], self.text[self.end : max(self.until, self.end)]
        apart = normalised(before) + normalised(self.here) + normalised(after)
        return "".join(apart.split()) == "".join(normalised(before + self.here + after).split())


def _stands_apart(text: str, index: int) -> bool:
    """Return whether no Unicode normalisation joins or swaps the character at `index` with those before it."""
    if index >= len(text):
        return True
    character = text[index]
    return not (unicodedata.category(character).startswith("M") or JOINED_TO_THE_LAST.match(character))


def _groups(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the runs of tokens [a, b) between which no token before reaches behind the start of a token after."""
    array = np.asarray(spans)
    reach = np.maximum.accumulate(array[:, 1])
    next_start = np.minimum.accumulate(array[::-1, 0])[::-1]
    borders = np.flatnonzero(reach[:-1] <= next_start[1:]) + 1
    return list(zip([0, *borders.tolist()], [*borders.tolist(), len(spans)], strict=True))


def _ends_within(
    token_texts: Sequence[bytes | None], piece: _Piece, normalised: Callable[[str], str]
) -> NDArray[np.int64] | None:
    """Return tokens' byte ends counted from their start, -1 where not certain; None if `piece` is not their text.

    A token without text is taken to stand for its span, if normalising neither changes it nor reaches over its end.
    """
    here, raw = piece.here, piece.here.encode()
    known = [token_text for token_text in token_texts if token_text is not None]
    joined = b"".join(known)
    if len(known) == len(token_texts) and joined in (raw, b" " + raw):
        return np.cumsum([len(token_text) for token_text in known]) - (len(joined) - len(raw))
    usual = normalised(here)
    if len(known) < len(token_texts):
        same = _stands_apart(piece.text, piece.end) and usual.strip() == here.strip()
    else:
        same = joined in (usual.encode(), b" " + usual.encode()) or b" " + joined == usual.encode()
    if not (same and piece.is_cut_out_by(normalised)):
        return None
    ends = np.full(len(token_texts), UNKNOWN, np.int64)
    ends[-1] = len(raw)
    return ends
