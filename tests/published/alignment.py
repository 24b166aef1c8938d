"""The published code's token alignment and what it makes of it, step by step and slowly.

Written from what the code does: cells as floats, lists of matches, pieces as strings, a vocabulary as a dictionary.
"""

import math
from collections.abc import Mapping, Sequence

Entries = tuple[list[float], list[int]]  # raw logits and target ids of one position


def edits(a: str, b: str) -> int:
    """Levenshtein distance over code points."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a):
        here = [i + 1]
        for j, y in enumerate(b):
            here.append(min(above[j + 1] + 1, here[j] + 1, above[j] + (x != y)))
        above = here
    return above[-1]


def matches(source: Sequence[str], target: Sequence[str]) -> list[list[int]]:
    """Return for each target piece the source pieces that dynamic time warping matches it with, in order."""
    cost = [[edits(a, b) for b in target] for a in source]
    total = [[math.inf] * len(target) for _ in source]
    for i in range(len(source)):
        for j in range(len(target)):
            before = (
                0 if i == j == 0 else min(_cell(total, i - 1, j), _cell(total, i, j - 1), _cell(total, i - 1, j - 1))
            )
            total[i][j] = cost[i][j] + before
    found: list[list[int]] = [[] for _ in target]
    i, j = len(source) - 1, len(target) - 1
    while (i, j) != (0, 0):
        found[j].insert(0, i)
        ways = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(ways, key=lambda way: _cell(total, *way))  # the first of several least ones
    found[0].insert(0, 0)
    return found


def _cell(total: list[list[float]], i: int, j: int) -> float:
    return total[i][j] if i >= 0 and j >= 0 else math.inf


def published_alignment(
    source: Sequence[str],
    target: Sequence[str],
    markers: tuple[str, str],
    target_ids: Mapping[str, int],
    kept: Sequence[Sequence[tuple[float, str]]],
    *,
    mapping: Mapping[str, str] | None = None,
    first_marker: bool = False,
) -> list[Entries]:
    """Return the logits and target ids at each target token.

    `source` and `target` are a text's pieces, `markers` what each vocabulary writes for a space, `kept` the logits and
    pieces a source keeps after each of its tokens, best first. `mapping` is MinED's: a source piece in the target's
    spelling to a target piece; without it the match is EM's. `first_marker`: the source's class is one that gets a
    marker before a text's first piece.
    """
    own, wanted = markers
    bare = [piece.replace(own, "") for piece in source], [piece.replace(wanted, "") for piece in target]
    rows: list[Entries] = []
    for i, matched in enumerate(matches(*bare)):
        one_hot = ([1.0], [target_ids[target[i]]])
        if len(matched) != 1:
            rows.append(one_hot)
            continue
        piece = source[matched[0]].replace(own, wanted)
        if first_marker and i == 0 and target[0].startswith(wanted) and not piece.startswith(wanted):
            piece = wanted + piece
        same = piece == target[i] or (mapping is not None and mapping.get(piece) == target[i])
        rows.append(_carried(kept[matched[0]], markers, target_ids, mapping) if same else one_hot)
    return rows


def _carried(
    kept: Sequence[tuple[float, str]],
    markers: tuple[str, str],
    target_ids: Mapping[str, int],
    mapping: Mapping[str, str] | None,
) -> Entries:
    logits: list[float] = []
    ids: list[int] = []
    for logit, piece in kept:
        wanted = piece.replace(*markers)
        wanted = mapping[wanted] if mapping is not None else wanted
        if wanted in target_ids and target_ids[wanted] not in ids:
            ids.append(target_ids[wanted])
            logits.append(logit)
    return logits, ids
