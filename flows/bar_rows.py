"""The progress bars of a terminal: a row per stage, beneath it one per source and one per unit at work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from logitfuse.flows.pace import Standing
    from logitfuse.flows.stage_progress import StageProgress
    from logitfuse.tasks.unit import Unit

Row = tuple["RenderableType", ...]


def bar_rows(stages: Sequence[StageProgress]) -> Table:
    """Return the bars of stages as they stand."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=6)
    for _ in range(4):
        table.add_column(no_wrap=True, justify="right")
    for stage in stages:
        for row in _stage_rows(stage):
            table.add_row(*row)
    return table


def _stage_rows(stage: StageProgress) -> Iterator[Row]:
    yield _row(stage.stage, stage.standing())
    at_work = list(stage.at_work()) if len(stage.units) > 1 else []
    if not stage.sources:
        yield from (_row(f"  {_name(unit)}", stage.unit_standing(unit)) for unit in at_work)
        return
    for source in stage.sources:
        yield _row(f"  {source}", stage.standing(source))
        mine = (unit for unit in at_work if unit.source == source and unit.shard is not None)
        yield from (_row(f"    {unit.part}", stage.unit_standing(unit)) for unit in mine)


def _name(unit: Unit) -> str:
    return unit.part if unit.shard is not None else str(unit)


def _row(name: str, at: Standing) -> Row:
    percent = "" if at.percent is None else f"{int(at.percent)}%"
    bar = ProgressBar(total=at.total, completed=at.done, pulse=at.total is None)
    return name, bar, percent, at.amount, at.rate, at.left
