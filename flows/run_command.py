"""`logitfuse run` and `logitfuse stage`: do what is missing of a recipe, or of one of its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from logitfuse.flows.completion import complete_stage
from logitfuse.flows.opened_run import known_stage, open_run
from logitfuse.flows.options import (
    PlainOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    ShardsOption,
    SourceOption,
    StageArgument,
    VerboseOption,
)
from logitfuse.flows.show import bars, console, results_table

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run


def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    start_at: Annotated[str, typer.Option(help="First stage to look at.", autocompletion=complete_stage)] = "prepare",
    stop_after: Annotated[str, typer.Option(help="Last stage to run.", autocompletion=complete_stage)] = "report",
    plain: PlainOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run all stages of a recipe; what is done already is kept.

    Example: logitfuse run demo --set fuse.rule=avg_ce
    """
    from logitfuse.flows.execute import run_stages, stages_between
    from logitfuse.flows.overview import Overview

    current = open_run(recipe, overrides)
    stages = stages_between(known_stage(start_at), known_stage(stop_after))
    with bars(Overview(current.recipe, stages)) as shown:
        run_stages(current, start_at, stop_after, shown, plain=plain)
    show_results(current, stop_after)


def show_results(current: Run, last: str) -> None:
    """Print what came of a run whose last stage was this one."""
    from logitfuse.tasks.report import in_short, told_report
    from logitfuse.tasks.results import results

    if last in ("evaluate", "report"):
        console.print(results_table(results(current)))
        console.print(f"The fused model: {trained_folder(current)}", soft_wrap=True, markup=False)
    if last in ("suites", "report"):
        show_suites(current)
    if last == "report":
        facts, page = told_report(current)
        for line in in_short(facts):
            console.print(line, highlight=False, markup=False)
        console.print(f"The report: {page}", soft_wrap=True, markup=False)


def show_suites(current: Run) -> None:
    """Print the suites' scores, with the fused model's differences from the target; nothing if none was asked."""
    if not current.recipe.suites.wanted:
        return
    from logitfuse.flows.suites_table import suites_table
    from logitfuse.tasks.suite_results import difference_rows, score_rows, task_scores
    from logitfuse.tasks.suites import asked_models

    models = asked_models(current)
    tasks = task_scores(current, models)
    console.print(suites_table(score_rows(tasks, models), difference_rows(tasks, models, current.target.label)))


def trained_folder(current: Run) -> str:
    """Return the folder of the fused model."""
    from logitfuse.tasks.unit import Unit

    return str(current.store.folder(current.record(Unit("train", "fused"))))


def stage(
    name: StageArgument,
    recipe: RecipeArgument,
    source: SourceOption = None,
    shards: ShardsOption = None,
    redo: Annotated[bool, typer.Option("--redo", help="Make again what is there already.")] = False,
    overrides: SetOption = None,
    plain: PlainOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run one stage by itself; what it reads must be there.

    Example: logitfuse stage capture recipe.yaml --source gemma3-270m --shards 3-5 --redo
    """
    from logitfuse.flows.execute import run_stage
    from logitfuse.flows.overview import Overview

    current = open_run(recipe, overrides)
    with bars(Overview(current.recipe, [known_stage(name)])) as shown:
        run_stage(current, name, shown, source=source, shards=shards, redo=redo, plain=plain)
