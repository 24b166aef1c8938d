"""`logitfuse alignment`: how well two tokenizers fit each other, before any model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import JsonFileOption, JsonOption
from logitfuse.flows.show import console
from logitfuse.flows.written_file import unwritable, write_json, write_text
from logitfuse.tasks.alignment_report.wording import (
    HOW,
    READ,
    SEGMENTS,
    notes_on_maps,
    notes_on_reading,
    number,
    percent,
)

REFERENCE = "a folder, a hub id (owner/name), or package:NAME"

MAP = (
    "Vocabulary map. A recipe's default, learned, is counted on the training text, which this command does not have; "
    "--map learned counts it on --text. mined is shown beside any map, unless it takes long."
)


def alignment(
    source: Annotated[str, typer.Argument(help=f"The source's tokenizer: {REFERENCE}.")],
    target: Annotated[str, typer.Argument(help=f"The target's tokenizer: {REFERENCE}.")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="What to count on: a .txt, .jsonl or .parquet file, a folder, package:demo. "
                                    "May be repeated. Default: built-in sentences in many scripts."),
    ] = None,
    max_bytes: Annotated[int, typer.Option("--bytes", min=1, help="Read at most about this much text.")] = 1_000_000,
    map_: Annotated[str, typer.Option("--map", help=MAP)] = "first_piece",
    strategy: Annotated[str, typer.Option("--alignment", help="Alignment of positions.")] = "offsets",
    compare: Annotated[bool, typer.Option("--compare", help="The paper's dtw and mined beside it.")] = False,
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Also write one page for a browser here.")] = None,
) -> None:  # fmt: skip
    """Show how two tokenizers fit each other; needs no model and no GPU.

    Example: logitfuse alignment package:mpt package:llama-2 --compare --html alignment.html
    """
    from logitfuse.tasks.alignment_report.facts import PAPER, Method, check_methods, gather
    from logitfuse.tasks.alignment_report.sample import read_sample
    from logitfuse.tasks.alignment_report.tokenizers import read_tokenizer

    methods = list(dict.fromkeys([Method(strategy, map_), *([PAPER] if compare else [])]))
    check_methods(methods)
    for file in (json_file, html_file):
        _check_writable(file)
    ours, theirs = read_tokenizer(source), read_tokenizer(target)
    facts = gather(ours, theirs, read_sample(text or (), max_bytes), methods)
    if json_file is not None:
        write_json(json_file, facts)
    if html_file is not None:
        from logitfuse.tasks.alignment_report.page import page

        write_text(html_file, page(facts))
    answer(facts) if as_json else show(facts)  # last: a pipe that is closed early loses no file


def show(facts: dict[str, Any]) -> None:
    """Print a report's facts as tables."""
    text = facts["text"]
    first = "the first " if text["cut_short"] else ""
    console.print(f"Counted on {first}{text['bytes']:,} bytes of {text['name']}.", highlight=False, markup=False)
    if facts["same_tokenizer"]:
        console.print("Both are the same tokenizer: every token maps to itself.")
    for table in (tokenizers_table, segments_table, methods_table, served_table, map_table):
        console.print(table(facts))
    for note in [*notes_on_reading(facts), *notes_on_maps(facts)]:
        console.print(note, highlight=False, markup=False)
    for name in dict.fromkeys(method["map"] for method in facts["methods"]):
        if facts["maps"][name]["worst"]:
            console.print(worst_table(name, facts["maps"][name]["worst"][:10]))


def tokenizers_table(facts: dict[str, Any]) -> Table:
    """A column per tokenizer."""
    source, target = facts["source"], facts["target"]
    table = _table("The tokenizers", source["name"], target["name"])
    table.add_row("bytes per token", f"{source['bytes_per_token']:.2f}", f"{target['bytes_per_token']:.2f}")
    labels = {"ids": "ids", "tokens": "tokens of the text", "tokens_without_byte_end": "of these, without a sure end"}
    for name, label in labels.items():
        table.add_row(label, f"{source[name]:,}", f"{target[name]:,}")
    return table


def segments_table(facts: dict[str, Any]) -> Table:
    """How many tokens lie between neighbouring borders that both tokenizers have."""
    table = _table("Between two common borders", "stretches", "share")
    whole = max(sum(facts["segments"].values()), 1)
    for name, label in SEGMENTS.items():
        table.add_row(f"{name}: {label}", f"{facts['segments'][name]:,}", percent(facts["segments"][name] / whole))
    return table


def methods_table(facts: dict[str, Any]) -> Table:
    """What each alignment with its map makes of the text."""
    table = _table("What the target would get", *map(method_name, facts["methods"]))
    table.add_row("positions served", *(percent(method["served"]) for method in facts["methods"]))
    agrees = (percent(method["next_token_agrees"]) for method in facts["methods"])
    table.add_row("there, the next tokens agree", *agrees)
    for name, label in READ.items():
        if name != "read_unknown" or any(method[name] for method in facts["methods"]):
            table.add_row(label, *(percent(method[name]) for method in facts["methods"]))
    return table


def served_table(facts: dict[str, Any]) -> Table:
    """Served positions by domain and by the script of the token they predict."""
    table = _table("Positions served", "positions", *map(method_name, facts["methods"]))
    for part in ("by_domain", "by_script"):
        for row in facts["methods"][0][part]:
            of = [next(r["served"] for r in m[part] if r["name"] == row["name"]) for m in facts["methods"]]
            table.add_row(escape(row["name"]), f"{row['positions']:,}", *map(percent, of))
        table.add_section()
    return table


def map_table(facts: dict[str, Any]) -> Table:
    """How the source's vocabulary finds its targets: share of its ids, and of the text's tokens."""
    maps = facts["maps"]
    columns = [f"{name}\n{of}" for name in maps for of in ("ids", "tokens in text")]
    table = _table("The source's vocabulary on the target's", *columns)
    for how, label in HOW.items():
        shares = [found[of][how] for found in maps.values() for of in ("vocabulary", "text")]
        if any(shares):
            table.add_row(label, *map(percent, shares))
    if any(found["mean_distance"] is not None for found in maps.values()):
        table.add_section()
        means = [found[of] for found in maps.values() for of in ("mean_distance", "mean_distance_in_text")]
        table.add_row("mean edit distance, where used", *map(number, means))
        ties = [shown for found in maps.values() for shown in (percent(found["ties"]), "")]
        table.add_row("share of these with a tie", *ties)
    return table


def worst_table(name: str, worst: list[dict[str, Any]]) -> Table:
    """The pieces the text uses most among those without an exact match."""
    table = Table(title=f"Most frequent pieces without an exact match ({name})", title_justify="left")
    for column in ("piece", "times", "found", "distance", "becomes"):
        table.add_column(column, justify="right" if column in ("times", "distance") else "left")
    for row in worst:
        becomes = ", ".join(target["piece"] for target in row["becomes"])
        distance = "" if row["distance"] is None else str(row["distance"])
        table.add_row(escape(row["piece"]), f"{row['count']:,}", HOW[row["how"]], distance, escape(becomes))
    return table


def method_name(method: dict[str, Any]) -> str:
    """Write a method as its two strategies."""
    return f"{method['alignment']} + {method['map']}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(escape(column), justify="right")
    return table


def _check_writable(path: Path | None) -> None:
    """Raise BadInput, before anything is computed, where a file cannot be written; what is there stays as it is."""
    if path is None:
        return
    there = path.exists()
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
