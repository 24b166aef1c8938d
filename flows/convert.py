"""`logitfuse convert`: give captured shards the other form on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import (
    JsonOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    ShardsOption,
    SourceOption,
    VerboseOption,
)
from logitfuse.flows.show import bars, console
from logitfuse.flows.typed_recipe import typed
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.storage.capture_rows import Codec
    from logitfuse.tasks.convert import Converted


def convert(
    recipe: RecipeArgument,
    to: Annotated[str, typer.Option(help="plain: columns that any reader understands; compact: smaller.")],
    source: SourceOption = None,
    shards: ShardsOption = None,
    remove: Annotated[
        bool,
        typer.Option(
            "--remove",
            help="Delete the other form once the new one is there and verified. Only where capture.codec asks for the "
            "new one.",
        ),
    ] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write captured shards in the other form, plain or compact, without the models; what has it already is kept.

    Compact rounds: plain made from it stays as it reads. Interrupted, it goes on when called again. Exit code 0 if all
    chosen shards have that form now, 1 if some were not captured. Example: logitfuse convert recipe.yaml --to compact
    """
    from logitfuse.flows.execute import parse_shards
    from logitfuse.tasks.checks import check_folder, check_space
    from logitfuse.tasks.convert import convert_units
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run

    codec, chosen = known_codec(to), parse_shards(shards)
    current = Run(read_recipe(recipe, overrides or ()))
    if remove:
        _refuse_to_undo(codec, current.recipe.capture.codec, recipe)
    check_folder(current.recipe)
    check_space(current.recipe)
    found = []
    with bars() as shown:
        for made in convert_units(
            current, codec, source, chosen, remove=remove, progress=lambda u: shown.report(str(u)), say=shown.say
        ):
            found.append(made)
            shown.finish(str(made.unit), line(made))
    if as_json:
        answer({"shards": [facts(made) for made in found]})
    else:
        said = summary(found, codec, recipe, typed(recipe, overrides), current.recipe.capture.codec)
        console.print(said, highlight=False, markup=False)
    if any(made.state == "missing" for made in found):
        raise typer.Exit(ExitCode.ANSWERED_NO)


def known_codec(name: str) -> Codec:
    """Return a codec's name; raise `BadInput` for an unknown one."""
    if name not in ("plain", "compact"):
        raise BadInput(f"--to {name}: there is no such form. Forms: plain, compact.")
    return cast("Codec", name)


def _refuse_to_undo(codec: Codec, asked: Codec, recipe: str) -> None:
    """Raise `BadInput` before the form that a recipe asks for is deleted: its runs would have to capture it again."""
    if asked != codec:
        raise BadInput(
            f"--remove: {recipe} asks for the {asked} form, so without it everything would be captured again. Nothing "
            f"was changed. Write `capture: {{codec: {codec}}}` into the recipe, or give --set capture.codec={codec} "
            "here and in every later command; without --remove both forms stand."
        )


def facts(made: Converted) -> dict[str, Any]:
    """Return plain JSON values about a shard; bytes are null where there is no such form."""
    sizes = [sum(file.bytes for file in record.files) if record else None for record in (made.other, made.record)]
    where = {"source": made.unit.source, "shard": made.unit.shard, "state": made.state}
    return {**where, "bytes_before": sizes[0], "bytes": sizes[1], "removed": made.removed}


def line(made: Converted) -> str:
    """One line about a shard."""
    if made.record is None:
        return f"{made.unit}: not captured"
    sizes = [sum(file.bytes for file in record.files) for record in (made.other, made.record) if record]
    said = f"converted, {sizes[0]:,} → {sizes[-1]:,} bytes" if made.state == "converted" else "up to date"
    return f"{made.unit}: {said}{', the other form is removed' if made.removed else ''}"


def summary(found: Sequence[Converted], codec: Codec, recipe: str, named: str, asked: Codec) -> str:
    """Say in words what was done and what to do."""
    states = [made.state for made in found]
    lines = [f"{states.count('converted')} converted, {states.count('kept')} in that form before."]
    if missing := states.count("missing"):
        lines.append(f"{missing} not captured yet: logitfuse status {named} says which.")
    if asked != codec:
        lines.append(
            f"Now set capture.codec: {codec} in {recipe}, or it captures the {asked} form again where missing."
        )
    if "converted" in states:
        lines.append(
            "Stages align and after are then made again where they had read the other form: its values differ."
        )
    return "\n".join(lines)
