"""Arguments and options that several commands have, each described and completed in one way."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from logitfuse.flows.completion import complete_field, complete_recipe, complete_source, complete_stage
from logitfuse.flows.json_answers import FLAG, json_asked
from logitfuse.flows.loudness import quietly, verbosely

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or the name of a shipped recipe (demo, default, paper).", autocompletion=complete_recipe
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Override a field of the recipe, for example --set fuse.rule=avg_ce or --set sources.0.name=teacher. May "
        "be repeated.",
        autocompletion=complete_field,
    ),
]
SourceOption = Annotated[
    str | None, typer.Option(help="Only this source, by its short name.", autocompletion=complete_source)
]
ShardsOption = Annotated[
    str | None, typer.Option(help="Only these shards: A-B, both included, or one number.", metavar="A-B")
]
StageArgument = Annotated[
    str,
    typer.Argument(help="prepare, encode, check, capture, map, align, fuse, train, …", autocompletion=complete_stage),
]
StagesOption = Annotated[
    list[str] | None,
    typer.Option("--stage", help="Only this stage. May be repeated.", autocompletion=complete_stage),
]
PlainOption = Annotated[
    bool, typer.Option("--plain", help="Run without Prefect: no server, no flow runs, same results.")
]
JsonOption = Annotated[
    bool,
    typer.Option(
        FLAG, help="Answer in JSON on standard output, and nothing else there.", callback=json_asked, is_eager=True
    ),
]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json-file", metavar="FILE", help="Also write the numbers here, as JSON.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say only what came of it, and warnings.", callback=quietly)
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Also show the logs of Prefect and of this program's parts.", callback=verbosely
    ),
]


def named_again(recipe: str, overrides: Sequence[str] | None) -> str:
    """Return how a command that is shown names the same run: as a shell wants it, with the same --set."""
    return shlex.join([recipe, *(word for override in overrides or () for word in ("--set", override))])
