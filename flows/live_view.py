"""What a terminal shows of a run while it goes on, the same for `run` and `status --watch`, whatever its width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from logitfuse.flows.bar_rows import Bar, bar_table
from logitfuse.flows.terminal import one_line

WIDEST = 120  # columns: bars longer than that say no more
ECHO = "^C"  # which the terminal writes at the end of the last line; were that full, it would be one more to clear
ROWS_AROUND = 8  # of the terminal's height: header, stages, losses, and the line on which the cursor stands
FEWEST = 4


class Mark(StrEnum):
    """Where a stage stands."""

    DONE = "done"
    WORKING = "at work"
    PART = "in part"
    WAITING = "to come"
    FAULT = "damaged"
    OFF = "off"  # nothing in it is asked for


SIGNS = {Mark.DONE: ("✓", "+"), Mark.WORKING: ("▶", ">"), Mark.PART: ("◐", "~"), Mark.WAITING: ("·", "."),
         Mark.FAULT: ("✗", "!"), Mark.OFF: ("–", "-")}  # fmt: skip
STYLES = {Mark.DONE: "green", Mark.WORKING: "bold cyan", Mark.PART: "yellow", Mark.WAITING: "dim",
          Mark.FAULT: "bold red", Mark.OFF: "dim"}  # fmt: skip


@dataclass(frozen=True)
class LiveView:
    """A run as it stands: one header line, the stages, bars of what is at work, and the losses."""

    title: str = ""
    disk: str = ""
    marks: Mapping[str, Mark] = field(default_factory=dict)
    bars: Sequence[Bar] = ()
    losses: Sequence[str] = ()
    note: str = ""
    stays: bool = False  # it is printed once, not drawn again: long lines are broken, not cut

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = min(max(1, options.max_width - len(ECHO)), WIDEST)
        if self.title or self.disk:
            yield _header(one_line(self.title), one_line(self.disk), width)
        if self.marks:
            yield _stages(self.marks, width, plain=options.ascii_only)
        if self.bars:
            most = max(FEWEST, options.size.height - ROWS_AROUND - len(self.losses))
            yield bar_table(self.bars[:most], width)
            if len(self.bars) > most:
                yield Text(f"… and {len(self.bars) - most} more", style="dim")
        for line in self.losses:
            yield Text(one_line(line)) if self.stays else _cut(one_line(line), width)
        if self.note:
            yield Text(one_line(self.note), style="dim") if self.stays else _cut(one_line(self.note), width, "dim")


def _header(title: str, disk: str, width: int) -> Text:
    """Return both on one line where they fit; else what is left of the title."""
    room = width - len(disk) - 2
    if room < min(len(title), 12):
        return _cut(title, width, "bold")
    shown = Text(title, style="bold", no_wrap=True)
    shown.truncate(room, overflow="ellipsis", pad=True)
    return Text.assemble(shown, "  ", (disk, "dim"), no_wrap=True)


def _stages(marks: Mapping[str, Mark], width: int, *, plain: bool) -> Text:
    """Return the stages with their signs, broken into lines between two of them."""
    text, column = Text(), 0
    for stage, mark in marks.items():
        label = f"{SIGNS[mark][plain]} {stage}"
        if column and column + 2 + len(label) > width:
            text.append("\n")
            column = 0
        elif column:
            text.append("  ")
            column += 2
        text.append(label, style=STYLES[mark])
        column += len(label)
    return text


def _cut(line: str, width: int, style: str = "") -> Text:
    text = Text(line, style=style, no_wrap=True)
    text.truncate(width, overflow="ellipsis")
    return text
