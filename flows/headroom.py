"""What `logitfuse headroom` prints: the targets against the student they are to teach."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from logitfuse.flows.show import console, errors
from logitfuse.tasks.alignment_report.wording import percent
from logitfuse.tasks.headroom_table import ALL, Row, pick_rows, rules_out


def show_headroom(facts: dict[str, Any]) -> None:
    """Print a table per subject (the fused targets, each source alone), then the warnings."""
    if not facts["measured"]:
        errors.print(f"[bold yellow]Headroom cannot be measured:[/] {escape(facts['why_not'])}", highlight=False)
        return
    for subject in dict.fromkeys(row["subject"] for row in facts["rows"]):
        console.print(headroom_table(pick_rows(facts["rows"], subject=subject)))
    for warning in facts["warnings"]:
        errors.print(f"[bold red]Warning:[/] {escape(warning)}", highlight=False)


READ_AS = (
    "Same token, longer, shorter: the source's next token ends where the target's does, after it, before it; own: no "
    "source serves. Taught: with a fused target. Change below 0: the targets know more than the student. Ruled out: "
    "true tokens that the targets hold impossible."
)


def headroom_table(rows: list[Row]) -> Table:
    """A row per class and per domain; below zero is headroom, infinite where true tokens are ruled out."""
    first = rows[0]
    title = f"{first['subject']}: nats of the true tokens of {first['split']} text (lower is better)"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("positions", "taught", "student", "targets", "change", "ruled out"):
        table.add_column(column, justify="right")
    for row in pick_rows(rows, domain=ALL):
        _add(table, row, row["class"])
    table.add_section()
    for row in pick_rows(rows, **{"class": ALL}):
        if row["domain"] != ALL:
            _add(table, row, row["domain"])
    table.caption = READ_AS
    table.caption_justify = "left"
    return table


def _add(table: Table, row: Row, name: str) -> None:
    cells = [f"{row['positions']:,}", f"{row['taught']:,}", f"{row['student']:.3f}"]
    table.add_row(escape(name), *cells, *(_targets(row) if row["taught"] else ["", "", ""]))


def _targets(row: Row) -> list[str]:
    """Write the targets' nats, the difference and the share ruled out; one position ruled out makes a mean infinite."""
    if row["difference"] is not None:
        difference = f"{row['difference']:+.3f}"
        return [f"{row['targets']:.3f}", f"[red]{difference}[/red]" if row["difference"] > 0 else difference, ""]
    share = percent(row["ruled_out"])
    if rules_out(row) or row["elsewhere"] is None:
        return ["∞", "[red]∞[/red]", f"[red]{share}[/red]"]
    return ["∞", f"∞ ({row['elsewhere']:+.3f} elsewhere)", share]
