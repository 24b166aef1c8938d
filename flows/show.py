"""What the command line prints: progress while it works, tables at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from logitfuse.tasks.engine import Progress as Report
    from logitfuse.tasks.execute import UnitStatus
    from logitfuse.tasks.results import Result
    from logitfuse.tasks.unit import Unit

console = Console()
errors = Console(stderr=True)


class Bars:
    """A progress bar per unit at work; plain lines at the end of each unit where there is no terminal."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bars: dict[str, int] = {}
        self._lock = threading.Lock()

    def report(self, unit: Unit | str) -> Report:
        """Return the function that a unit reports its progress to."""

        def advance(done: int, total: int) -> None:
            if self._progress is None:
                return
            with self._lock:
                name = str(unit)
                if name not in self._bars:
                    self._bars[name] = self._progress.add_task(name, total=total or None)
                self._progress.update(self._bars[name], completed=done, total=total or None)  # type: ignore[arg-type]

        return advance

    def finish(self, unit: Unit | str, line: str) -> None:
        """Replace a unit's bar by the line that says what became of it."""
        with self._lock:
            bar = self._bars.pop(str(unit), None)
            if bar is not None and self._progress is not None:
                self._progress.remove_task(bar)  # type: ignore[arg-type]
        self.say(line)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show progress while the block runs."""
    if not console.is_terminal:
        yield Bars(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        yield Bars(progress)


def results_table(found: list[Result]) -> Table:
    """A row per domain, a column per model: held-out nats per byte with its 95% interval by document."""
    table = Table(title="Held-out nats per byte (lower is better), 95% interval by document")
    table.add_column("domain")
    models = list(dict.fromkeys((result.model, result.role) for result in found))
    for model, role in models:
        table.add_column(model if model == role else f"{model}\n[dim]{role}[/dim]", justify="right")
    for domain in dict.fromkeys(result.domain for result in found):
        row = [result for result in found if result.domain == domain]
        best = min(result.nats_per_byte for result in row)
        table.add_row(f"{domain}\n[dim]{row[0].documents} documents[/dim]", *(_cell(result, best) for result in row))
    return table


def _cell(result: Result, best: float) -> str:
    value = f"{result.nats_per_byte:.4f}"
    value = f"[bold]{value}[/bold]" if result.nats_per_byte == best else value
    return f"{value}\n[dim]{result.low:.3f}–{result.high:.3f}[/dim]"


def status_table(statuses: dict[str, list[UnitStatus]]) -> Table:
    """A row per stage and source: how many units are done, missing, waiting."""
    table = Table(title="What is done")
    for column in ("stage", "of", "done", "missing", "waiting", "damaged", "size"):
        table.add_column(column, justify="left" if column in ("stage", "of") else "right")
    for stage, units in statuses.items():
        for source in dict.fromkeys(status.unit.source or "" for status in units):
            mine = [status for status in units if (status.unit.source or "") == source]
            counts = [str(sum(s.state == state for s in mine)) for state in ("done", "missing", "waiting", "damaged")]
            size = sum(file.bytes for status in mine if status.record for file in status.record.files)
            table.add_row(stage, source, *counts, f"{size / 1e6:,.1f} MB")
    return table
