"""What to answer to a name that is not known: the closest known one, and which there are."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return "Did you mean 'x'? ", or nothing where no known name is at least `cutoff` alike (0 to 1)."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"Did you mean {close[0]!r}? " if close else ""


def known_names(name: str, known: Iterable[str], *, called: str = "Known", cutoff: float = 0.6) -> str:
    """Return "Did you mean 'x'? Known: x, y."; `called` stands for "Known"."""
    known = list(dict.fromkeys(known))
    return f"{did_you_mean(name, known, cutoff=cutoff)}{called}: {', '.join(known) or 'none'}."
