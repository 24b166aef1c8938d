"""`logitfuse submit`: hand a recipe to a Prefect server, as a run of the pipeline's deployment."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from logitfuse.flows.completion import complete_stage
from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.json_answers import answer
from logitfuse.flows.loudness import Loudness, loudness
from logitfuse.flows.opened_run import known_stage
from logitfuse.flows.options import JsonOption, QuietOption, RecipeArgument, SetOption, VerboseOption
from logitfuse.flows.show import console, errors
from logitfuse.storage.errors import without_passwords
from logitfuse.storage.urls import is_url
from logitfuse.tasks.reporting.formats import moment

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.responses import DeploymentResponse

    from logitfuse.tasks.recipe import Recipe


def submit(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    start_at: Annotated[str, typer.Option(help="First stage to look at.", autocompletion=complete_stage)] = "prepare",
    stop_after: Annotated[str, typer.Option(help="Last stage to run.", autocompletion=complete_stage)] = "report",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; the exit code is 0 if it completed.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Hand a recipe to the Prefect server of `logitfuse up`, or of $PREFECT_API_URL: a worker runs all its stages.

    Paths of what is here are made absolute where workers start in another folder. With --wait the exit code is 0 if
    the run completed, else 2; Ctrl-C ends the waiting only.
    Examples: logitfuse submit recipe.yaml · logitfuse submit recipe.yaml --set fuse.rule=avg_ce --wait
    """
    from logitfuse.flows.execute import stages_between
    from logitfuse.tasks.recipe import read_recipe

    given = read_recipe(recipe, overrides or ())
    stages_between(known_stage(start_at), known_stage(stop_after))
    from logitfuse.flows.submitted import connected, deployed, followed, page_of_run, started

    with connected() as client:
        deployment = deployed(client)
        told, changed = told_recipe(given, deployment)
        parameters = {"recipe": told, "start_at": start_at, "stop_after": stop_after}
        run = started(client, deployment, given.name, parameters)
        facts = {
            "name": run.name,
            "id": str(run.id),
            "page": page_of_run(run),
            "api": without_passwords(str(client.api_url)),
            "place": place_of(given, deployment),
            "absolute": changed,
        }
        if not quiet:
            _say(given, facts, deployment)
        console.tell(f"{run.name}: {facts['page']}")
        try:
            state = followed(client, run.id, _event) if wait else run.state
        except KeyboardInterrupt:
            errors.tell(f"No longer waiting; {run.name} goes on. To end it: {facts['page']} → Cancel")
            sys.exit(ExitCode.INTERRUPTED)
    _end(run, state, facts, waited=wait, as_json=as_json)


def told_recipe(recipe: Recipe, deployment: DeploymentResponse) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a recipe as parameter for the deployment's workers, and the paths that were made absolute, by field.

    Raises `BadInput` where its run folder is seen from here and is another run's.
    """
    from logitfuse.flows.worker_paths import for_worker
    from logitfuse.tasks.checks import check_folder
    from logitfuse.tasks.recipe import parse_recipe

    content = recipe.model_dump(mode="json", exclude_defaults=True)
    told, changed = for_worker(content, deployment.job_variables.get("working_dir"))
    if not is_url(place := place_of(recipe, deployment)):
        folder = {"folder": place.rpartition("/")[0]}
        check_folder(parse_recipe(told | {"execution": {**told.get("execution", {}), **folder}}, "recipe"))
    return told, changed


def place_of(recipe: Recipe, deployment: DeploymentResponse) -> str:
    """Return where the run's folder will be: a relative one is in the folder in which workers start."""
    from pathlib import Path

    folder = deployment.job_variables.get("working_dir")
    return recipe.place if is_url(recipe.place) or folder is None else str(Path(folder) / recipe.place)


def _say(recipe: Recipe, facts: dict[str, Any], deployment: DeploymentResponse) -> None:
    """Say what was changed of the recipe, what is not here, where results will lie, and whether a worker waits."""
    from logitfuse.flows.worker_paths import not_here

    for field, path in facts["absolute"].items():
        console.tell(f"{field}: {path} (made absolute: workers start in another folder)")
    for field, path in not_here(recipe.model_dump(mode="json", exclude_defaults=True)).items():
        console.tell(f"{field}: {path} is not here. The run fails in its first second unless its worker has it.")
    console.tell(f"Results: {facts['place']}")
    if deployment.status is not None and deployment.status.value == "NOT_READY":
        console.tell(
            "No worker asks for work of this deployment now; the run waits for one: prefect worker start --pool "
            "logitfuse"
        )


def _event(line: str) -> None:
    if loudness() is not Loudness.QUIET:
        console.tell(f"{moment(time.time())}  {line}")


def _end(run: FlowRun, state: State[Any] | None, facts: dict[str, Any], *, waited: bool, as_json: bool) -> None:
    """Answer, and end with an exit code that says how the run ended, where that was waited for."""
    name = (state.name or state.type.value).lower() if state else "scheduled"
    message = (state.message or "") if state else ""
    if as_json:
        answer({**facts, "state": name, "message": message})
    if not waited:
        return
    if state is not None and state.is_completed():
        if loudness() is Loudness.QUIET:  # else it was told as it happened
            console.tell(f"{run.name} {name}: {message}")
        return
    errors.tell(f"logitfuse: {run.name} {name}: {message}")
    raise typer.Exit(ExitCode.REFUSED)
