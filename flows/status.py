"""`logitfuse status`: what is done, missing and at work, once or as it goes on, also of a run of another process."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from logitfuse.flows.completion import complete_recipe
from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import JsonOption, SetOption
from logitfuse.flows.show import console, status_table
from logitfuse.flows.typed_recipe import note_unless_folder, with_recipe
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.flows.run_counts import Standing, Wanted
    from logitfuse.flows.run_watch import RunState
    from logitfuse.storage.store import LocalStore

SECONDS, SECONDS_OF_A_STORE = 2.0, 10.0


def status(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FOLDER",
            help="A recipe; or a run's folder or s3:// URL, of which only what lies there is counted, without models.",
            autocompletion=complete_recipe,
            callback=note_unless_folder,
        ),
    ],
    overrides: SetOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it as it goes on, whoever does it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is done, what is missing, what waits for it, and who is at work.

    Of a recipe the exit code is 0 if everything is up to date, else 1. With --watch it ends when nothing is missing, or
    with Ctrl-C. Examples: logitfuse status demo · logitfuse status runs/demo --watch · logitfuse status demo --json
    """
    from logitfuse.flows.run_watch import run_state
    from logitfuse.flows.run_watch import watch as watched
    from logitfuse.storage.urls import is_url

    if watch and as_json:
        raise BadInput("--watch shows, --json answers once. Leave one of them out.")
    name, store, counted = _folder(recipe, overrides) if _is_run_folder(recipe) else _recipe(recipe, overrides)
    if watch:
        seconds = SECONDS_OF_A_STORE if is_url(store.place) else SECONDS
        try:
            state = watched(lambda: run_state(name, store, counted), seconds)
        except KeyboardInterrupt:  # the usual way to end it
            sys.exit(ExitCode.INTERRUPTED)
    else:
        state = run_state(name, store, counted)
        answer(facts(state, counted)) if as_json else show(state, counted)
    if state.is_done is False:
        raise typer.Exit(ExitCode.ANSWERED_NO)


def _is_run_folder(place: str) -> bool:
    from logitfuse.storage.places import RUN_FILE
    from logitfuse.storage.urls import is_url

    try:
        return is_url(place) or (Path(place).expanduser() / RUN_FILE).exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _folder(place: str, overrides: list[str] | None) -> tuple[str, LocalStore, Standing]:
    """Open a run by its folder alone."""
    from logitfuse.flows.run_counts import Standing
    from logitfuse.storage.places import open_store
    from logitfuse.storage.urls import check_url, is_url

    if overrides:
        raise BadInput(f"{place}: a run's folder has no recipe in it that --set could change. Give the recipe.")
    if is_url(place):
        folder, _, name = check_url(place, "run folder").rpartition("/")
    else:
        path = Path(place).expanduser()
        path = path if path.name else path.absolute()
        folder, name = str(path.parent), path.name
    store = open_store(folder, name)
    if store.is_empty():
        raise BadInput(f"run folder {place}: nothing lies there. Give the folder that a run made, or its recipe.")
    return name, store, Standing(lambda: open_store(folder, name))


def _recipe(recipe: str, overrides: list[str] | None) -> tuple[str, LocalStore, Wanted]:
    """Open a run by its recipe."""
    from logitfuse.flows.run_counts import Wanted
    from logitfuse.storage.places import open_store
    from logitfuse.storage.urls import is_url
    from logitfuse.tasks.checks import check_place
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run

    run = Run(read_recipe(recipe, overrides or ()))
    check_place(run.recipe)
    place = run.recipe.execution.folder
    reopen = (lambda: open_store(place, run.recipe.name)) if is_url(place) else None
    return run.recipe.name, run.store, Wanted(run, reopen)


def facts(state: RunState, counted: Wanted | Standing) -> dict[str, Any]:
    """Return what `--json` prints; without a recipe nobody knows what is missing."""
    units = getattr(counted, "units", None)
    if units is None:
        return {**state.facts(), "units": None}
    listing = [
        {
            "stage": s.unit.stage,
            "source": s.unit.source,
            "shard": s.unit.shard,
            "state": s.state,
            "why": with_recipe(s.why),
        }
        for s in units
    ]
    return {**state.facts(), "units": listing}


def show(state: RunState, counted: Wanted | Standing) -> None:
    """Print it once."""
    console.print(status_table(state.counts))
    for damaged in (s for s in getattr(counted, "units", ()) if s.state == "damaged"):
        console.tell(Text.assemble((str(damaged.unit), "red"), f": {with_recipe(damaged.why)}"))
    console.print(replace(state.view, stays=True))
