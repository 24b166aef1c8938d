"""The published code's vocabulary map, string by string and slowly: EM and MinED as dictionaries of pieces.

Written from what the code does: vocabularies are dictionaries piece -> id in the order of `get_vocab()`.
"""

from collections.abc import Callable, Mapping

from logitfuse.kernels.edit_distance import edit_distance_reference

Distance = Callable[[str, str], int]


def mined(
    piece: str, target: Mapping[str, int], markers: tuple[str, str], distance: Distance = edit_distance_reference
) -> str | None:
    """Return the target piece that a source piece becomes; None where the target has none. `markers`: (own, its)."""
    wanted = spelled(piece, markers)
    if wanted in target:
        return wanted
    best, least = None, None
    for candidate in target:
        found = distance(wanted, candidate)
        if least is None or found < least:
            best, least = candidate, found
    return best


def exact(piece: str, target: Mapping[str, int], markers: tuple[str, str]) -> str | None:
    """Return the target piece of the same spelling, None where there is none: the paper's EM."""
    wanted = spelled(piece, markers)
    return wanted if wanted in target else None


def spelled(piece: str, markers: tuple[str, str]) -> str:
    """Return a source piece with its space marker replaced by the target's."""
    own, other = markers
    return other.join(piece.split(own)) if own else piece
