"""A large grid on the results page: choice by choice, and the best rows alone."""

from itertools import product
from typing import Any

from logitfuse.tasks.study.choices import choice_table
from logitfuse.tasks.study.page_tables import headroom_table
from logitfuse.tasks.study.plots import MOST_ROWS, plot_headroom


def found(rule: str, k: int, number: int, ruled_out: float = 0.0) -> dict[str, Any]:
    gain = {"good": -0.3, "bad": 0.1}[rule] - k / 1000 + number / 10_000
    row = {
        "domain": "all", "class": "all", "positions": 1000, "taught": 1000, "student": 2.0, "targets": 2 + gain,
        "difference": gain, "elsewhere": gain, "ruled_out": ruled_out,
    }  # fmt: skip
    return {"variant": f"{rule}, {k}, {number}", "settings": {"rule": rule, "k": k, "same": 1}, "rows": [row]}


GRID = [found(rule, k, number) for rule, k, number in product(("good", "bad"), (10, 64), range(12))]


def test_each_value_of_what_varies_has_a_row() -> None:
    rows = {line.split(" | ")[0].strip("| "): line for line in choice_table(GRID).splitlines()[2:]}
    assert list(rows) == ["`rule=good`", "`rule=bad`", "`k=10`", "`k=64`"]
    assert "| -0.364 | -0.336 | 24 | 0 |" in rows["`rule=good`"]
    assert "| -0.310 |" in rows["`k=10`"]


def test_what_rules_out_true_tokens_is_counted_and_never_the_best() -> None:
    spoilt = [found("good", 10, 0, 0.2) if each["settings"]["rule"] == "good" else each for each in GRID]
    (row,) = (line for line in choice_table(spoilt).splitlines() if "rule=good" in line)
    assert row == "| `rule=good` | – | – | 24 | 24 |"


def test_a_small_grid_is_shown_whole_and_a_large_one_by_its_best() -> None:
    assert choice_table(GRID[:MOST_ROWS]) == ""
    assert len(headroom_table(GRID[:MOST_ROWS]).splitlines()) == MOST_ROWS + 2
    table = headroom_table(GRID)
    assert f"The best {MOST_ROWS} of {len(GRID)}" in table and "good, 64, 0" in table and "bad, 10, 11" not in table
    figure = plot_headroom({"headroom": GRID})
    assert figure is not None
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == MOST_ROWS and "good, 64, 0" in names
