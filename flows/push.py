"""`logitfuse push`: put a trained model on a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from logitfuse.flows.options import RecipeArgument, SetOption
from logitfuse.flows.show import console

if TYPE_CHECKING:
    from logitfuse.tasks.push import Plan


def push(
    recipe: RecipeArgument,
    to: Annotated[str, typer.Option(help="The repository: user/name or organisation/name.")],
    arm: Annotated[str, typer.Option(help="fused, or control.")] = "fused",
    private: Annotated[bool, typer.Option("--private", help="Only you and your organisation can read it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be uploaded, and send nothing. Needs no network.")
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Upload a trained model with a model card that has its results; files whose checksum is wrong are never sent.

    Example: logitfuse push recipe.yaml --to me/my-model --dry-run
    """
    from logitfuse.tasks.checks import check_folder
    from logitfuse.tasks.push import plan_push
    from logitfuse.tasks.push import push as upload
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run

    current = Run(read_recipe(recipe, overrides or ()))
    check_folder(current.recipe)
    plan = plan_push(current, arm, to, private=private)
    show_plan(plan, whole=dry_run)
    if dry_run:
        console.print("Nothing was uploaded: this was a dry run.")
        return
    address = upload(plan, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))
    console.print(f"The model is there: {address}", soft_wrap=True, markup=False)


def show_plan(plan: Plan, *, whole: bool) -> None:
    """Print the files with sizes and checksums if `whole`, with the card; what is missing in any case."""
    if whole:
        visible = "only you can read" if plan.private else "everybody can read"
        table = Table(title=f"{plan.repository}, which {visible}", title_justify="left")
        for column in ("file", "bytes", "checksum"):
            table.add_column(column, justify="right" if column == "bytes" else "left", overflow="fold")
        for file in plan.files:
            table.add_row(file.name, f"{file.bytes:,}", file.checksum)
        console.print(table)
        console.print(plan.card, markup=False, highlight=False, soft_wrap=True)
    for line in plan.missing:
        console.print(f"Missing: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
