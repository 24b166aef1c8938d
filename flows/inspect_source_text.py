"""What `logitfuse inspect` prints of one source at one position: its tokens, what each becomes, and their sum.

A source's own tokens and its prediction on the target's are two lists, each sorted by itself: side by side they would
read as pairs. So they are two tables, one under the other; only what belongs together shares a row.
"""

from __future__ import annotations

from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from logitfuse.flows.show import console
from logitfuse.tasks.alignment_report.wording import HOW, percent

Facts = dict[str, Any]


def show_source(facts: Facts, source: Facts, style: str, gold: int) -> None:
    """Print what one source predicts, what it becomes, what is lost on the way, and what that adds up to."""
    counts = f"counts {percent(source['share'])}" if source["served"] else "does not serve this position"
    score = f"{figure(source['score'])} {facts['score_unit']}"
    console.print(Text.assemble(("\n■ ", style), (source["label"], "bold"), f": {counts}; score {score}"))
    if source["own"] and source["served"]:
        console.print("  This is the student itself: what it predicts stands above, as before training.")
        return
    if source["why_not"]:
        console.print(Text(f"  Not served: {source['why_not']}." if not source["served"] else f"  {source['why_not']}"))
    if source["position"] is not None:
        _show_own(source)
    if source["served"]:
        console.print(Text("\n  Added up: its prediction in the target's tokens", style="bold"))
        console.print(Padding.indent(aligned_table(source["aligned"], gold), 2))


def _show_own(source: Facts) -> None:
    from logitfuse.tasks.inspect.wording import LIES  # which loads torch, and this is loaded by every command

    said = Text("  has read ").append("…" + "·".join(source["read"]), style="dim").append("  next ")
    said.append(source["next"]["text"] if source["next"] else "the end", style="bold")
    console.print(said.append(f" ({LIES[source['lies']]})" if source["lies"] else ""))
    console.print(Text("\n  Its own tokens, and what each becomes in the target's", style="bold"))
    console.print(Padding.indent(own_table(source), 2))
    if (lost := source["lost"]) is not None:
        console.print(
            f"  kept {percent(lost['kept'])}; not captured {percent(lost['not_captured'])}, no target token "
            f"{percent(lost['not_mapped'])}, too little to keep {percent(lost['too_small'])}",
            highlight=False, style="dim",
        )  # fmt: skip


def own_table(source: Facts) -> Table:
    """A row per token that a source keeps: the target tokens that it becomes, and how the map found them."""
    table = _table("its token", "p", "becomes", "by")
    for token in source["kept"]:
        table.add_row(*_own_cells(token))
    if source["more"]:
        table.add_row(_more(source["more"]))
    return table


def aligned_table(aligned: Facts, gold: int) -> Table:
    """A row per target token that a source's prediction gives something to."""
    table = _table("target token", "p")
    for token in aligned["kept"]:
        table.add_row(marked(token, gold), percent(token["p"]))
    if aligned["more"]:
        table.add_row(_more(aligned["more"]))
    return table


def _table(*names: str) -> Table:
    table = Table(pad_edge=False, box=None)
    for name in names:
        table.add_column(
            name, justify="right" if name == "p" else "left", no_wrap=name == "p", overflow="fold", header_style="dim"
        )
    return table


def _own_cells(token: Facts) -> list[Text]:
    becomes = Text() if token["becomes"] else Text("nothing", style="dim")
    for place, target in enumerate(token["becomes"]):
        becomes.append(", " if place else "→ ").append(target["text"]).append(f" {percent(target['p'])}", style="dim")
    if token["others"]:
        becomes.append(f" +{token['others']}", style="dim")
    distance = f" {token['distance']}" if token["how"] == "distance" else ""
    by = HOW[token["how"]].removeprefix("by ") + distance
    drawn = f" ×{token['drawn']}" if token.get("drawn") else ""
    return [Text(token["text"] + drawn), Text(percent(token["p"])), becomes, Text(by, style="dim")]


def _more(count: int) -> Text:
    return Text(f"and {count:,} more", style="dim")


def marked(token: Facts, gold: int) -> Text:
    """Write a token; the true one has a mark."""
    true = token["id"] == gold
    return Text(token["text"] + (" ✓" if true else ""), style="bold green" if true else "")


def figure(value: float | None, missing: str = "–", digits: int = 3) -> str:
    """Write a number, or what stands for none."""
    return missing if value is None else f"{value:.{digits}f}"
