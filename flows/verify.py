"""`logitfuse verify`: read again everything that a run has, and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import (
    JsonFileOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    SourceOption,
    StagesOption,
    VerboseOption,
)
from logitfuse.flows.show import bars, console
from logitfuse.flows.typed_recipe import typed
from logitfuse.flows.written_file import write_json
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.tasks.verify.faults import StageFacts, Verification
    from logitfuse.tasks.verify.verifier import Verifier


def verify(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    stages: StagesOption = None,
    source: SourceOption = None,
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Read again everything that a run has: checksums, schemas, counts, ids, probabilities, joins. Changes nothing.

    Exit code 1 if there is a fault, else 0; each is told with its shard, its document, and the command that redoes it.
    Example: logitfuse verify recipe.yaml --stage capture --source gemma3-270m
    """
    from logitfuse.tasks.checks import check_folder
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.verify.standing import StandingRun
    from logitfuse.tasks.verify.verifier import Verifier

    chosen = chosen_stages(stages)
    current = StandingRun(read_recipe(recipe, overrides or ()))
    check_folder(current.recipe)
    found = show_verification(Verifier(current, typed(recipe, overrides)), chosen, source)
    if json_file is not None:
        write_json(json_file, found.facts())
    if as_json:
        answer(found.facts())
    else:
        if not quiet:
            console.print(stages_table(found.stages))
        for line in summary(found).splitlines():
            console.tell(line)
    if found.faults:
        raise typer.Exit(ExitCode.ANSWERED_NO)


def chosen_stages(names: Sequence[str] | None) -> list[str]:
    """Return the stages to verify, in order, all where none is named; raise `BadInput` for an unknown one."""
    from logitfuse.kernels.closest_name import known_names
    from logitfuse.tasks.stages import ORDER

    for name in names or ():
        if name not in ORDER:
            raise BadInput(f"--stage {name}: there is no such stage. {known_names(name, ORDER, called='Stages')}")
    return [stage for stage in ORDER if not names or stage in names]


def show_verification(verifier: Verifier, stages: Sequence[str], source: str | None) -> Verification:
    """Verify stage after stage with a bar for each; faults are printed as they are found."""
    from logitfuse.tasks.verify.faults import Verification

    if source is not None:
        verifier.check_source(source)
    facts: list[StageFacts] = []
    with bars() as shown:
        for stage in stages:
            known = len(verifier.faults)
            facts.append(verifier.stage(stage, source, shown.report(stage)))
            for fault in verifier.faults[known:]:
                shown.say(f"FAULT {fault}")
            shown.finish(stage, stage_line(facts[-1]))
    return Verification(facts, verifier.faults, verifier.stale)


def stage_line(facts: StageFacts) -> str:
    """One line about a verified stage."""
    if not facts.shards:
        return f"{facts.stage}: nothing is there"
    fine = "no fault" if not facts.faults else f"{facts.faults:,} faults" if facts.faults > 1 else "1 fault"
    return f"{facts.stage}: {facts.shards:,} read, {facts.rows:,} rows, {facts.bytes / 1e6:,.1f} MB, {fine}"


def stages_table(stages: Sequence[StageFacts]) -> Table:
    """A row per stage."""
    table = Table(title="What was verified")
    table.add_column("stage")
    for column in ("shards", "missing", "rows", "bytes", "faults", "stale"):
        table.add_column(column, justify="right")
    for facts in stages:
        faults = f"[bold red]{facts.faults:,}[/bold red]" if facts.faults else "0"
        numbers = (f"{number:,}" for number in (facts.shards, facts.missing, facts.rows, facts.bytes))
        table.add_row(facts.stage, *numbers, faults, "?" if facts.stale is None else f"{facts.stale:,}")
    return table


def summary(found: Verification) -> str:
    """Say in words what was found and what to do."""
    lines = [f"{len(found.faults):,} faults." if len(found.faults) != 1 else "1 fault."]
    if found.faults:
        lines.append(
            "Redo them in the order shown, then run the recipe: only what depends on them and changed is made again."
        )
    if missing := sum(facts.missing for facts in found.stages):
        results = "1 result is" if missing == 1 else f"{missing:,} results are"
        lines.append(f"{results} not there (yet): logitfuse status says which.")
    if found.stale:
        results = "1 result is" if len(found.stale) == 1 else f"{len(found.stale):,} results are"
        lines.append(f"{results} stale, which no setting asks for any more: not read. logitfuse clean can delete them.")
    if any(facts.stale is None for facts in found.stages):
        lines.append("Where it says ?, what is stale cannot be told: not all that is wanted was looked at, or known.")
    return "\n".join(lines)
