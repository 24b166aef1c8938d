"""What the command line prints: progress while it works, tables at the end."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import ConsoleOptions, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from logitfuse.flows.bar_rows import bar_rows
from logitfuse.flows.repeating import repeating
from logitfuse.flows.stage_progress import Ahead, Measure, StageProgress
from logitfuse.flows.terminal import LastingConsole
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.engine import Progress as Report
    from logitfuse.tasks.execute import UnitStatus
    from logitfuse.tasks.results import Result

SECONDS_BETWEEN_LINES = 30.0


class PlainConsole(LastingConsole):
    """A console that only ever prints text: names that users and corpora gave cannot command the terminal.

    What the output's encoding cannot hold, such as half a surrogate pair, is printed as an escape too.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, but cut nothing off: an escape may make a line longer than the terminal is wide."""
        super().print(*objects, **({"crop": False} | options))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of anything printed, their text made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text, self.encoding), segment.style)


def harmless(text: str, encoding: str = "utf-8") -> str:
    """Return text with control characters, but for line ends and tabs, written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else ascii(c)[1:-1] for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


console = PlainConsole()
errors = PlainConsole(stderr=True)


def warn_of_code(lines: Iterable[str]) -> None:
    """Say what of others' code a command is about to run, because a setting asks for it."""
    for line in lines:
        errors.print(Text.assemble(("Code of others: ", "bold yellow"), line), highlight=False, soft_wrap=True)


class Bars:
    """Shows stages while they run, as bars; where there is no terminal, as a line now and then."""

    def __init__(self) -> None:
        self._shown: dict[str, StageProgress] = {}

    @contextmanager
    def showing(self, progress: StageProgress) -> Iterator[None]:
        """Show a stage while the block runs."""
        self._shown[progress.stage] = progress
        try:
            yield
        finally:
            del self._shown[progress.stage]

    def report(self, name: str, measure: str = "shards") -> Report:
        """Show a bar for something that is no stage's unit, until it is finished; return what it reports to."""
        self._shown[name] = StageProgress(name, Measure(measure), [Ahead(Unit(name))])
        return self._shown[name].report(Unit(name))

    def finish(self, unit: Unit | str, line: str) -> None:
        """Print what became of a unit, or of something with a bar of its own."""
        if isinstance(unit, str):
            self._shown.pop(unit, None)
        self.say(line)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    def rows(self) -> Table:
        """Return the bars as they stand."""
        return bar_rows(list(self._shown.values()))

    def say_where(self) -> None:
        """Print a line about each stage that runs."""
        for progress in list(self._shown.values()):
            self.say(progress.said())


@contextmanager
def bars() -> Iterator[Bars]:
    """Show progress while the block runs."""
    shown = Bars()
    if console.is_terminal:
        with Live(get_renderable=shown.rows, console=console, refresh_per_second=4, transient=True):
            yield shown
    else:
        with repeating(SECONDS_BETWEEN_LINES, shown.say_where):
            yield shown


def results_table(found: list[Result]) -> Table:
    """A row per domain, a column per model: held-out nats per byte with its 95% interval by document."""
    table = Table(title="Held-out nats per byte (lower is better), 95% interval by document")
    table.add_column("domain")
    models = list(dict.fromkeys((result.model, result.role) for result in found))
    for model, role in models:
        name = escape(model)
        table.add_column(name if model == role else f"{name}\n[dim]{escape(role)}[/dim]", justify="right")
    for domain in dict.fromkeys(result.domain for result in found):
        row = [result for result in found if result.domain == domain]
        best = min(result.nats_per_byte for result in row)
        table.add_row(
            f"{escape(domain)}\n[dim]{row[0].documents} documents[/dim]", *(_cell(result, best) for result in row)
        )
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
