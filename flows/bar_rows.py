"""The progress bars of a terminal: a row per stage, beneath it one per source and one per unit at work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from logitfuse.flows.pace import duration, quantity, scaled
from logitfuse.flows.terminal import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from logitfuse.flows.pace import Standing
    from logitfuse.flows.stage_progress import StageProgress
    from logitfuse.tasks.unit import Unit

WIDE, MIDDLE = 88, 58  # columns from which amounts are shown, and speeds
LONGEST_NAME = 0.4  # of the width


@dataclass(frozen=True)
class Bar:
    """One row: a name, indented by what it is part of, and where that stands."""

    name: str
    at: Standing


def bar_table(bars: Sequence[Bar], width: int) -> Table:
    """Return bars as a table that fits into `width` columns: what is said least urgently goes first."""
    table = Table.grid(padding=(0, 1))
    table.width = width
    table.add_column(no_wrap=True, max_width=max(10, int(width * LONGEST_NAME)), overflow="ellipsis")
    table.add_column(ratio=1, min_width=6)
    for _ in range(2 + (width >= MIDDLE) + (width >= WIDE)):
        table.add_column(no_wrap=True, justify="right")
    for bar in bars:
        table.add_row(Text(one_line(bar.name)), _drawn(bar.at), *_cells(bar.at, width))
    return table


def _drawn(at: Standing) -> RenderableType:
    if at.total is None and not at.done:  # it has not begun, or not said anything yet
        return Text()
    return ProgressBar(total=at.total, completed=at.done, pulse=at.total is None)


def _cells(at: Standing, width: int) -> Iterator[str]:
    yield "" if at.percent is None else f"{int(at.percent)}%"
    if width >= WIDE:
        yield at.amount
        yield at.rate
        yield at.left
        return
    if width >= MIDDLE:
        yield "" if at.per_second is None else f"{_short(at.per_second, at.measure)}/s"
    yield duration(at.seconds_left) if at.seconds_left else ""


def _short(value: float, measure: str) -> str:
    """Write a speed in few columns: `12,345 tok`."""
    return f"{scaled(value)} tok" if measure == "tokens" else quantity(value, measure)


def stage_bars(stage: StageProgress) -> list[Bar]:
    """Return the rows of a stage."""
    return list(_stage_bars(stage))


def _stage_bars(stage: StageProgress) -> Iterator[Bar]:
    yield Bar(stage.stage, stage.standing())
    at_work = list(stage.at_work()) if len(stage.units) > 1 else []
    if not stage.sources:
        yield from (Bar(f"  {_name(unit)}", stage.unit_standing(unit)) for unit in at_work)
        return
    for source in stage.sources:
        yield Bar(f"  {source}", stage.standing(source))
        mine = (unit for unit in at_work if unit.source == source and unit.shard is not None)
        yield from (Bar(f"    {unit.part}", stage.unit_standing(unit)) for unit in mine)


def _name(unit: Unit) -> str:
    return unit.part if unit.shard is not None else str(unit)
