"""`logitfuse plan`: what a run will cost, whether it fits, and what of it stands, before anything is spent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.options import JsonOption, QuietOption, RecipeArgument, SetOption, VerboseOption
from logitfuse.flows.show import console, errors

if TYPE_CHECKING:
    from logitfuse.flows.plan_tables import PlanTable
    from logitfuse.tasks.plan.gpus import Devices
    from logitfuse.tasks.plan.plan import Plan
    from logitfuse.tasks.run import Run


def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    gpu: Annotated[str | None, typer.Option(help="Times for this GPU, by name: h100, a100, rtx-4090, …")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many of them work at once.")] = 1,
    mfu: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of its peak that a GPU reaches.")] = 0.4,
    flops: Annotated[float | None, typer.Option(min=1, help="For a GPU not in the table: its peak, in FLOP/s.")] = None,
    probe: Annotated[bool, typer.Option(help="Without a GPU's name: time every stage here, on a little text.")] = True,
    sample: Annotated[float, typer.Option(min=0.01, help="Read at most so many MB of text.")] = 4.0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Tell what a run will cost and whether it fits, before anything is spent. Changes nothing.

    Exit code 0 if it can go, 1 if something is refused or does not fit.

    Example: logitfuse plan recipe.yaml --gpu h100 --gpus 8 --mfu 0.4
    """
    from logitfuse.tasks.plan.facts import plan_facts
    from logitfuse.tasks.plan.plan import make_plan
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run

    devices = _devices(gpu, gpus, mfu, flops)
    run = Run(read_recipe(recipe, overrides or ()))
    with errors.status("Looking at the text …") as status:
        found = make_plan(
            run, devices=devices, probe=probe, most_bytes=int(sample * 2**20),
            say=lambda line: status.update(f"Probing: {escape(line)} …"),
        )  # fmt: skip
    if as_json:
        print(json.dumps(plan_facts(run, found), indent=1))
    else:
        show_plan(run, found)
    if not found.goes:
        raise typer.Exit(ExitCode.ANSWERED_NO)


def _devices(gpu: str | None, count: int, mfu: float, flops: float | None) -> Devices | None:
    from logitfuse.storage.errors import BadInput
    from logitfuse.tasks.plan.gpus import named_devices, stated_devices

    if gpu is not None and flops is not None:
        raise BadInput("--gpu and --flops: both state how fast a device is. Give one of them.")
    if flops is not None:
        return stated_devices(flops, count, mfu)
    return None if gpu is None else named_devices(gpu, count, mfu)


def show_plan(run: Run, found: Plan) -> None:
    """Print a plan's tables, what is refused, and what does not fit."""
    from logitfuse.flows.plan_tables import plan_tables

    for each in plan_tables(run, found):
        console.print(_table(each))
        for note in each.notes:
            console.print(note, highlight=False, markup=False)
        console.print()
    for line in found.warnings:
        errors.tell(Text.assemble(("Warning:", "bold yellow"), " ", line))
    for line in found.refused:
        errors.tell(Text.assemble(("Refused:", "bold red"), " ", line))
    for line in found.reasons:
        errors.tell(Text.assemble(("Does not fit:", "bold red"), " ", line))
    if found.sample is None:
        errors.print("Nothing can be planned until this is mended.", highlight=False)
    if found.goes:
        console.print("It can go: [bold]logitfuse run[/] does what is missing.", highlight=False)


def _table(of: PlanTable) -> Table:
    from logitfuse.flows.plan_tables import NUMBERS

    table = Table(title=escape(of.title), title_justify="left")
    for column in of.columns:
        table.add_column(escape(column), justify="right" if column in NUMBERS else "left", overflow="fold")
    for row in of.rows[:-1] if of.rows and of.rows[-1][0] == "all" else of.rows:
        table.add_row(*map(escape, row))
    if of.rows and of.rows[-1][0] == "all":
        table.add_section()
        table.add_row(*map(escape, of.rows[-1]))
    return table
