"""Whether byte ends are right, judged from the text, the tokens' bytes and plain Python normalisation alone."""

import numpy as np
from hostile.builders import Hostile

from logitfuse.tasks.models.token_ends import Ends, Ids


def check_ends(hostile: Hostile, text: str, ids: Ids, ends: Ends) -> None:
    """Assert that every end that is not -1 is where its token ends; say which is not.

    Two judgements: all tokens so far say the text so far, and the tokens since the last known end say what stands
    between. Where a token stands for other text than its own only its neighbours can be judged.
    """
    raw = text.encode()
    known = ends[ends >= 0]
    assert ends.dtype == np.int32 and len(ids) == len(ends)
    assert (np.diff(known) >= 0).all() and (known <= len(raw)).all(), "ends fall, or lie outside of the text"
    so_far: bytes | None = b""
    since: bytes | None = b""
    start = 0
    stride = len(ids) // 200 + 1  # all tokens so far of a long text are judged now and then: it takes time
    for number, (token, end) in enumerate(zip(ids.tolist(), ends.tolist(), strict=True)):
        opaque = hostile.vocabulary.pieces[token] in hostile.opaque
        piece = None if opaque else hostile.vocabulary.texts[token]
        so_far = None if so_far is None or piece is None else so_far + piece
        since = None if since is None or piece is None else since + piece
        if end < 0:
            continue
        where = f"token {number} of {text[:60]!r}"
        if so_far is not None and number % stride == 0:
            right = says(hostile, so_far, raw[:end], first=True, spaces=hostile.drops_space or hostile.prefixes)
            assert right, f"{where}: {so_far[-60:]!r} does not end at {end}: {raw[:end][-60:]!r}"
        if since is not None:
            right = says(hostile, since, raw[start:end], first=start == 0, spaces=hostile.drops_space)
            assert right, f"{where}: {since[-60:]!r} is not {raw[start:end][-60:]!r}"
        since, start = b"", end


def says(hostile: Hostile, said: bytes, part: bytes, *, first: bool, spaces: bool) -> bool:
    """Return whether tokens with these bytes are what the tokenizer makes of this part of a text.

    `first`: the part begins the text, so that a dummy prefix may stand before it. `spaces`: white space is no matter.
    """
    prefix = hostile.vocabulary.dummy_prefix and (first or hostile.prefixes)
    if said == part or (prefix and said == b" " + part):
        return True
    (head, found, tail), (own_head, wanted, own_tail) = _taken_apart(said), _taken_apart(part)
    if head != own_head or tail != own_tail:
        return False
    wanted = hostile.normalised(wanted)
    found, wanted = ("".join(c for c in text if c not in hostile.drops) for text in (found, wanted))
    if spaces:
        found, wanted = "".join(found.split()), "".join(wanted.split())
    return found == wanted or (prefix and found == " " + wanted)


def _taken_apart(data: bytes) -> tuple[bytes, str, bytes]:
    """Return the end of a character that began before, whole characters, and the beginning of one that goes on."""
    first = next((i for i, byte in enumerate(data) if byte & 0xC0 != 0x80), len(data))
    last = len(data)
    while last > first:
        try:
            return data[:first], data[first:last].decode(), data[last:]
        except UnicodeDecodeError:
            last -= 1
    return data[:first], "", data[first:]
