"""`logitfuse audit`: compute a sample again with the live models, and compare it with what was captured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import JsonFileOption, JsonOption, RecipeArgument, SetOption, SourceOption, named_again
from logitfuse.flows.show import bars, console, errors
from logitfuse.flows.written_file import write_json

if TYPE_CHECKING:
    from logitfuse.tasks.audit.auditor import Auditor
    from logitfuse.tasks.audit.findings import SourceAudit
    from logitfuse.tasks.audit.measures import Differences, Measures


def audit(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    source: SourceOption = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents of each source; a chunk of each is compared.")] = 32,
    seed: Annotated[int, typer.Option(help="Another seed takes other documents.")] = 0,
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
) -> None:
    """Compute a sample of captured text again with the live models and compare the store with it. Changes nothing.

    Beside the store stands a control: the same model on the same text in another batch. Exit code 1 if a store differs
    by more than rounding and control explain, else 0. Example: logitfuse audit recipe.yaml --source gemma3-270m
    """
    from logitfuse.tasks.audit.auditor import Auditor
    from logitfuse.tasks.audit.findings import advice
    from logitfuse.tasks.checks import check_folder
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.verify.standing import StandingRun

    run = StandingRun(read_recipe(recipe, overrides or ()))
    check_folder(run.recipe)
    found = show_audit(Auditor(run, named_again(recipe, overrides), documents, seed), source)
    facts = {"sources": [one.facts() for one in found]}
    if json_file is not None:
        write_json(json_file, facts)
    if as_json:
        answer(facts)
    for one in found:
        if one.chunks and not as_json:
            console.print(audit_table(one))
    differing = [one for one in found if one.verdict == "differs"]
    for one in differing:
        errors.print(
            f"[bold red]Differs:[/] {escape(advice(one, named_again(recipe, overrides)))}",
            highlight=False,
            soft_wrap=True,
        )
    if differing:
        raise typer.Exit(ExitCode.ANSWERED_NO)


def show_audit(auditor: Auditor, source: str | None) -> list[SourceAudit]:
    """Audit source after source, with a bar for each."""
    found = []
    with bars() as shown:
        for label in auditor.sources(source):
            found.append(auditor.source(label, shown.report(label, "documents")))
            shown.finish(label, audit_line(found[-1]))
    return found


def audit_line(found: SourceAudit) -> str:
    """One line about a source: the verdict, and what it rests on."""
    shards = f"{found.standing:,} of {found.wanted:,} shards captured, {len(found.shards):,} looked into"
    return f"{found.source}: {found.verdict}; {shards}, {found.chunks:,} chunks, {found.control.positions:,} positions"


def audit_table(found: SourceAudit) -> Table:
    """The store, and the model in another batch, each against the model alone."""
    title = f"{found.source}: {found.verdict}"
    drawn = f"{found.drawn:,} drawn tokens count as mass only." if found.drawn else None
    table = Table(title=escape(title), title_justify="left", caption=drawn, caption_justify="left")
    table.add_column("against the model alone", no_wrap=True)
    for column in ("live", "stored", "live in a batch (control)"):
        table.add_column(column, justify="right")
    for name, nats in (("nats per token", found.per_token()), ("nats per byte", found.per_byte())):
        table.add_row(name, *(f"{nats[which]:.5f}" for which in ("live", "stored", "again")))
    stored, control = found.stored, found.control
    for what, mine, noise in (("kept", stored.kept, control.kept), ("gold", stored.gold, control.gold)):
        table.add_section()
        for name, left, right in zip(DIFFERENCES, _differences(mine), _differences(noise), strict=True):
            table.add_row(f"|Δ log p| {what}: {name}", "", left, right)
    table.add_section()
    for name, left, right in zip(AGREEMENTS, _agreements(stored), _agreements(control), strict=True):
        table.add_row(name, "", left, right)
    return table


DIFFERENCES = ("mean", "median", "p99", "max", "root mean square", "expected of rounding")
AGREEMENTS = ("KL(live || …), nats per position", "same best token", "same kept tokens", "same rank of the next token")


def _differences(found: Differences) -> list[str]:
    rounding = f"{found.rounding_rms:.1e}" if found.rounding else "–"
    values = (found.mean, found.quantile(0.5), found.quantile(0.99), found.highest, found.rms)
    return [*(f"{value:.1e}" for value in values), rounding]


def _agreements(found: Measures) -> list[str]:
    facts = found.facts()
    return [f"{facts['kl_mean']:.1e}", *(f"{facts[name]:.2%}" for name in ("same_best", "same_set", "same_rank"))]
