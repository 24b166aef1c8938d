"""`logitfuse report`: the page of a finished run, made anew from what stands."""

from __future__ import annotations

from typing import Annotated

import typer

from logitfuse.flows.completion import complete_recipe
from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import JsonOption, QuietOption, SetOption, VerboseOption
from logitfuse.flows.show import console
from logitfuse.flows.typed_recipe import advising_to_run, note_unless_folder, typed
from logitfuse.storage.errors import BadInput


def report(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FOLDER",
            help="A recipe, or the folder of a run that has a report.",
            autocompletion=complete_recipe,
            callback=note_unless_folder,
        ),
    ],
    overrides: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make a finished run's report anew from what stands, in seconds and without a model, and say what it says.

    For after an update of logitfuse, or where a stage was redone.
    Examples: logitfuse report recipe.yaml · logitfuse report runs/demo
    """
    from logitfuse.tasks.checks import check_folder
    from logitfuse.tasks.execute import do_unit
    from logitfuse.tasks.inspect.opened import recipe_of
    from logitfuse.tasks.report import in_short, told_report
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.unit import Unit

    run = Run(recipe_of(recipe, overrides or ()))
    check_folder(run.recipe)
    if run.store.is_empty():
        begin = f"logitfuse run {typed(recipe, overrides)}"
        raise BadInput(f"run folder {run.store.place}: nothing lies there to report of. Run: {begin}")
    with advising_to_run():
        do_unit(run, Unit("report"), redo=True)
    facts, page = told_report(run)
    if as_json:
        answer(facts)
        return
    for line in in_short(facts):
        console.print(line, highlight=False, markup=False)
    console.print(f"The report: {page}", soft_wrap=True, markup=False)
