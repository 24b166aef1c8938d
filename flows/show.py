"""What the command line prints: progress while it works, tables at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from logitfuse.flows.bar_rows import stage_bars
from logitfuse.flows.live_view import LiveView
from logitfuse.flows.loudness import Loudness, loudness
from logitfuse.flows.pace import quantity
from logitfuse.flows.repeating import repeating
from logitfuse.flows.stage_progress import Ahead, Measure, StageProgress
from logitfuse.flows.terminal import LastingConsole, ResizableLive, harmless
from logitfuse.flows.typed_recipe import with_recipe
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.flows.overview import Overview
    from logitfuse.flows.run_counts import StageCount
    from logitfuse.tasks.engine import Progress as Report
    from logitfuse.tasks.results import Result

SECONDS_BETWEEN_LINES = 30.0
MATTERS = ("WARNING", "FAULT", ": failed: ", "out of memory")  # in lines that a quiet command prints, too


class PlainConsole(LastingConsole):
    """A console that only ever prints text: names that users and corpora gave cannot command the terminal.

    What the output's encoding cannot hold, such as half a surrogate pair, is printed as an escape too.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, but cut nothing off: an escape may make a line longer than the terminal is wide."""
        super().print(*objects, **({"crop": False} | options))

    def tell(self, line: str | Text, hang: int = 0) -> None:
        """Print words: broken between them in a terminal, in one line where a program reads.

        `hang`: by how many columns lines after the first are indented.
        """
        text = line if isinstance(line, Text) else Text(line)
        if not self.is_terminal:
            self.print(text, highlight=False, soft_wrap=True)
            return
        first, *others = text.wrap(self, max(1, self.width - hang)) or [Text()]
        # At once: other threads print, too, and their lines must not come between these.
        self.print(Group(first, *(Padding(each, (0, 0, 0, hang), expand=False) for each in others)), highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of anything printed, their text made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text, self.encoding), segment.style)


console = PlainConsole()
errors = PlainConsole(stderr=True)


def warn_of_code(lines: Iterable[str]) -> None:
    """Say what of others' code a command is about to run, because a setting asks for it."""
    for line in lines:
        errors.tell(Text.assemble(("Code of others: ", "bold yellow"), line))


class Bars:
    """Shows stages while they run, as bars; where there is no terminal, as a line now and then."""

    def __init__(self, overview: Overview | None = None) -> None:
        """`overview`: what is shown around the bars of a whole run."""
        self._shown: dict[str, StageProgress] = {}
        self._overview = overview
        self.above: Callable[[str], None] | None = None  # prints a line above the bars while they are drawn

    @contextmanager
    def showing(self, progress: StageProgress) -> Iterator[None]:
        """Show a stage while the block runs."""
        self._shown[progress.stage] = progress
        if self._overview:
            self._overview.stage_begins(progress.stage)
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
        """Print a line above the bars; of a command that is to be quiet, only what somebody should know of."""
        if loudness() is not Loudness.QUIET or any(word in line for word in MATTERS):
            console.tell(with_recipe(line))

    def rows(self) -> LiveView:
        """Return what stands below the lines: the bars, and the run around them."""
        rows = [bar for progress in list(self._shown.values()) for bar in stage_bars(progress)]
        return self._overview.view(rows) if self._overview else LiveView(bars=rows)

    def say_where(self) -> None:
        """Print a line about each stage that runs."""
        for progress in list(self._shown.values()):
            self.say(progress.said())


@contextmanager
def bars(overview: Overview | None = None) -> Iterator[Bars]:
    """Show progress while the block runs: live in a terminal, but not between the lines of a log."""
    shown = Bars(overview)
    if loudness() is Loudness.QUIET:
        yield shown
    elif console.is_terminal and not console.is_dumb_terminal and loudness() is Loudness.NORMAL:
        with (
            overview.kept_up_to_date() if overview else nullcontext(),
            ResizableLive(get_renderable=shown.rows, console=console, refresh_per_second=4, transient=True),
        ):
            shown.above = console.tell
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


def status_table(counts: Sequence[StageCount]) -> Table:
    """A row per stage and source: how many units are done, missing, waiting; only columns that say something."""
    table = Table(title="What is done", title_justify="left")
    states = [state for state in ("missing", "waiting", "damaged") if any(getattr(count, state) for count in counts)]
    table.add_column("stage", no_wrap=True)
    table.add_column("of", overflow="ellipsis", no_wrap=True)
    for column in ("done", *states, "size"):
        table.add_column(column, justify="right", no_wrap=True)
    for count in counts:
        numbers = (f"{number:,}" if number else "" for number in (getattr(count, state) for state in states))
        source = escape(count.called or count.source)
        table.add_row(count.stage, source, f"{count.done:,}", *numbers, quantity(count.bytes, "bytes"))
    return table
