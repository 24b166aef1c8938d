"""`logitfuse inspect`: one document, token by token: what each source said, what was fused, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from logitfuse.flows.inspect_text import Colour, show_document, show_worst
from logitfuse.flows.options import JsonOption, QuietOption, SetOption, VerboseOption
from logitfuse.flows.show import bars, console, errors
from logitfuse.flows.typed_recipe import advising_to_run, note_unless_folder, typed
from logitfuse.flows.written_file import write_text
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.tasks.inspect.documents import Place
    from logitfuse.tasks.inspect.inspector import Facts, Inspector
    from logitfuse.tasks.inspect.worst import Worst

HITS = 10  # documents with a searched text that are named
IN_TERMINAL = 160  # tokens of the text around the chosen one
AROUND = 256  # tokens of each of several documents that are on a page

By = Literal["harm", "loss", "gain", "disagreement"]
Only = Annotated[str | None, typer.Option(help="Look only into these shards: A-B, both included, or one number.")]


def inspect(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE_OR_RUN",
            help="A YAML file, a shipped recipe's name, or a run's folder.",
            callback=note_unless_folder,
        ),
    ],
    doc: Annotated[str | None, typer.Option(help="The document with this id.")] = None,
    text: Annotated[str | None, typer.Option("--search", help="The first document that holds this text.")] = None,
    worst: Annotated[
        int | None,
        typer.Option("--worst", "--most", min=1, help="So many documents, those that are first by --by."),
    ] = None,
    by: Annotated[
        By,
        typer.Option(
            help="Rank by what the true token costs under the targets more than to the student itself (harm), or less "
            "(gain), by that cost (loss), or by how far apart the sources are at it (disagreement)."
        ),
    ] = "harm",
    at: Annotated[int | None, typer.Option(min=0, help="The token to explain, counted from 0.")] = None,
    top: Annotated[int, typer.Option(min=1, max=512, help="Tokens shown of each distribution.")] = 10,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the document that a page holds at most.")] = 2048,
    colour: Annotated[Colour, typer.Option(help="Colour tokens by who counts most, or by harm.")] = "winner",
    shards: Only = None,
    no_models: Annotated[bool, typer.Option("--no-models", help="Run no model: show what the store holds.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one page for a browser here.")] = None,
    as_json: JsonOption = False,
    overrides: SetOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:  # fmt: skip
    """Show one document token by token: each source's predictions, what they became, what was fused, and why.

    Needs stage fuse. Example: logitfuse inspect recipe.yaml --worst 5 --html inspect.html
    """
    from logitfuse.tasks.inspect.documents import fused_shards
    from logitfuse.tasks.inspect.inspector import Inspector

    if sum(value is not None for value in (doc, text, worst)) > 1:
        raise BadInput("--doc, --search and --worst: each finds documents. Give one of them.")
    if worst is not None and at is not None:
        raise BadInput("--at: --worst finds the tokens itself. Give --doc to look at another one.")
    run = _opened(recipe, overrides or ())
    with advising_to_run("fuse"):
        standing = fused_shards(run)
    inspector = Inspector(run, models=not no_models, top=top)
    if worst is not None:
        found = _worst(inspector, _spread(standing, shards), worst, by, as_json)
        every = html is not None
        documents = [_at_worst(inspector, one, by, AROUND if every else IN_TERMINAL, every) for one in found]
    else:
        place, byte = _place(inspector, _chosen(standing, shards), doc, text)
        most = tokens if html is not None else IN_TERMINAL
        documents = [inspector.document(place, at=at, byte=byte, most=most, every=html is not None)]
    if html is not None and documents:
        from logitfuse.tasks.inspect.page import page

        write_text(html, page(documents), errors if as_json else console)
    if as_json:
        print(json.dumps([_at_one(facts) for facts in documents], ensure_ascii=True, allow_nan=False))
        return
    if worst is not None:
        show_worst(documents, typed(recipe, overrides), by)
    for facts in documents[:1]:  # last: a pipe that is closed early loses no file
        show_document(_at_one(facts), colour)


def _opened(recipe: str, overrides: Sequence[str]) -> Any:
    from logitfuse.tasks.checks import check_folder
    from logitfuse.tasks.inspect.opened import recipe_of
    from logitfuse.tasks.run import Run

    run = Run(recipe_of(recipe, overrides))
    check_folder(run.recipe)
    return run


def _place(inspector: Inspector, shards: list[int], doc: str | None, text: str | None) -> tuple[Place, int | None]:
    """Return the document that was asked for, and the byte of it that was found."""
    from logitfuse.tasks.inspect.documents import find_document, first_document, search

    if doc is not None:
        return find_document(inspector.run, doc, shards), None
    if text is None:
        return first_document(inspector.run, shards), None
    hits = list(islice(search(inspector.run, text, shards), HITS))
    if not hits:
        raise BadInput(f"--search {text}: no document that is fused holds this text.")
    if len(hits) > 1:
        others = ", ".join(repr(hit.place.doc_id) for hit in hits[1:])
        more = " and perhaps more" if len(hits) == HITS else ""
        errors.print(f"Also in {others}{more}.", highlight=False, markup=False, soft_wrap=True)
    return hits[0].place, hits[0].byte


def _worst(inspector: Inspector, shards: list[int], count: int, by: By, quiet: bool) -> list[Worst]:
    from logitfuse.tasks.engine import silent
    from logitfuse.tasks.inspect.worst import worst_positions

    with bars() as shown:
        report = silent if quiet else shown.report("worst")
        found = worst_positions(inspector.run, shards, count, by, report)
        line = f"looked at {found.positions:,} positions that are taught, in shards {', '.join(map(str, shards))}"
        if not quiet:
            shown.finish("worst", line)
    if not found.found:
        raise BadInput("--worst: nothing is taught in these shards. Look at a document: --doc ID, or no option.")
    return found.found


def _at_worst(inspector: Inspector, worst: Worst, by: By, most: int, every: bool) -> Facts:
    from logitfuse.tasks.inspect.documents import find_document

    place = find_document(inspector.run, worst.doc_id, [worst.shard])
    at = inspector.number(place, worst.chunk, worst.place)
    number = f"{worst.nats:.2f}" if by == "loss" else f"{worst.nats:+.2f}"
    nats = f"{number} nats" if worst.nats < float("inf") else "ruled out"
    return inspector.document(place, at=at, most=most, every=every) | {"note": f"{by} {nats}"}


def _at_one(facts: Facts) -> Facts:
    """Return the facts with the chosen token's explanation alone."""
    return facts | {"positions": [one for one in facts["positions"] if one["number"] == facts["at"]]}


def _chosen(standing: list[int], shards: str | None) -> list[int]:
    from logitfuse.flows.execute import parse_shards

    if (span := parse_shards(shards)) is None:
        return standing
    low, high = span
    if found := [shard for shard in standing if low <= shard <= high]:
        return found
    raise BadInput(f"--shards {shards}: none of these is fused. Fused are {standing[0]} to {standing[-1]}.")


def _spread(standing: list[int], shards: str | None) -> list[int]:
    """Return the shards in which the worst is looked for: those that were asked for, or some all over the run."""
    from logitfuse.tasks.audit.sample import spread
    from logitfuse.tasks.inspect.worst import MOST_SHARDS

    return spread(standing, MOST_SHARDS) if shards is None else _chosen(standing, shards)
