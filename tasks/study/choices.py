"""A grid of settings, told one choice at a time: too many rows for anybody to read are a few that answer something."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from logitfuse.tasks.headroom_table import rules_out
from logitfuse.tasks.study.page_tables import markdown_table
from logitfuse.tasks.study.plots import MOST_ROWS, overall

Facts = dict[str, Any]


def choice_table(headroom: Sequence[Facts]) -> str:
    """A row per value of each setting that a large grid varies: the best headroom with it, the middle one, and how
    many of the combinations with it rule out true tokens, where the loss is infinite. Empty for what is no such grid.

    Best and middle are of those that rule none out, in nats of the true token.
    """
    found = [(each["settings"], row) for each in headroom if (row := overall(each))]
    if len(found) <= MOST_ROWS:
        return ""
    rows = []
    for setting in dict.fromkeys(name for settings, _ in found for name in settings):
        values = list(dict.fromkeys(settings.get(setting) for settings, _ in found))
        if len(values) > 1:
            rows += [_row(setting, value, [row for settings, row in found if settings.get(setting) == value])
                     for value in values]  # fmt: skip
    return markdown_table(["choice", "best", "middle", "combinations", "of which rule out true tokens"], rows)


def _row(setting: str, value: object, rows: list[Facts]) -> list[str]:
    sound = [row["elsewhere"] for row in rows if not rules_out(row) and row["elsewhere"] is not None]
    best, middle = (f"{of(sound):+.3f}" for of in (min, statistics.median)) if sound else ("–", "–")
    return [f"`{setting}={value}`", best, middle, str(len(rows)), str(sum(rules_out(row) for row in rows))]
