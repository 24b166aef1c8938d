"""The suites' scores in the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from logitfuse.tasks.suite_results import MEAN

Row = dict[str, Any]


def suites_table(scores: list[Row], differences: list[Row]) -> Table:
    """A row per suite and task, a column per model: its score in % with a 95% interval, and the paired difference."""
    table = Table(title="Scores in % (higher is better), 95% intervals by example")
    table.add_column("task")
    table.add_column("chance", justify="right")
    for model in dict.fromkeys(row["model"] for row in scores):
        table.add_column(escape(model), justify="right")
    apart = {(row["suite"], row["task"], row["model"]): row for row in differences}
    for suite, task in dict.fromkeys((row["suite"], row["task"]) for row in scores):
        mine = [row for row in scores if (row["suite"], row["task"]) == (suite, task)]
        cells = [_cell(row, apart.get((suite, task, row["model"]))) for row in mine]
        table.add_row(_name(mine[0]), "" if mine[0]["chance"] is None else f"{100 * mine[0]['chance']:.1f}", *cells)
    return table


def _name(row: Row) -> str:
    called = f"[bold]{escape(row['suite'])}, mean[/bold]" if row["task"] == MEAN else escape(row["task"])
    return f"{called}\n[dim]{escape(row['metric'])}, {row['n']} examples, {row['fewshot']}-shot[/dim]"


def _cell(row: Row, apart: Row | None) -> str:
    text = f"{100 * row['value']:.1f}\n[dim]{100 * row['low']:.1f}–{100 * row['high']:.1f}[/dim]"
    if apart is None:
        return text
    low, high = (f"{100 * apart[name]:+.1f}" for name in ("low", "high"))
    return f"{text}\n{100 * apart['value']:+.1f} [dim]{low} to {high}[/dim]"
