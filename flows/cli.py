"""The command line: `logitfuse run`, `stage`, `status`, `alignment`, `headroom`, `verify` and `convert`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from logitfuse.flows.alignment_report import alignment
from logitfuse.flows.audit import audit
from logitfuse.flows.convert import convert
from logitfuse.flows.deploy import deploy
from logitfuse.flows.evaluate import evaluate
from logitfuse.flows.inspect import inspect
from logitfuse.flows.plan import plan
from logitfuse.flows.push import push
from logitfuse.flows.show import bars, console, errors, results_table, status_table, warn_of_code
from logitfuse.flows.stopping import Stopped, stoppable
from logitfuse.flows.study import results as results_page
from logitfuse.flows.study import study
from logitfuse.flows.up.command import up
from logitfuse.flows.verify import verify
from logitfuse.flows.worker_config import worker_config
from logitfuse.storage.errors import BadInput, LogitfuseError
from logitfuse.storage.system_errors import explained, out_of_memory

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fuse several language models, whatever their vocabularies, into one.",
)

RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped recipe (demo, default, paper).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field, for example --set fuse.rule=avg_ce. May be repeated."),
]
PlainOption = Annotated[
    bool, typer.Option("--plain", help="Run without Prefect: no server, no flow runs, same results.")
]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    start_at: Annotated[str, typer.Option(help="First stage to look at.")] = "prepare",
    stop_after: Annotated[str, typer.Option(help="Last stage to run.")] = "report",
    plain: PlainOption = False,
) -> None:
    """Run all stages of a recipe; what is done already is kept.

    Example: logitfuse run demo --set fuse.rule=avg_ce
    """
    from logitfuse.flows.execute import run_stages
    from logitfuse.tasks.report import report_page
    from logitfuse.tasks.results import results

    current = _open(recipe, overrides)
    with bars() as shown:
        run_stages(current, _known_stage(start_at), _known_stage(stop_after), shown, plain=plain)
    if stop_after in ("evaluate", "report"):
        console.print(results_table(results(current)))
        console.print(f"The fused model: {trained_folder(current)}", soft_wrap=True, markup=False)
    if stop_after in ("suites", "report"):
        show_suites(current)
    if stop_after == "report":
        console.print(f"The report: {report_page(current)}", soft_wrap=True, markup=False)


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


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="prepare, encode, check, capture, map, align, fuse, train, …")],
    recipe: RecipeArgument,
    source: Annotated[str | None, typer.Option(help="Only this source, by its short name.")] = None,
    shards: Annotated[str | None, typer.Option(help="Only these shards: A-B, both included, or one number.")] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Make again what is there already.")] = False,
    overrides: SetOption = None,
    plain: PlainOption = False,
) -> None:
    """Run one stage by itself; what it reads must be there.

    Example: logitfuse stage capture recipe.yaml --source gemma3-270m --shards 3-5 --redo
    """
    from logitfuse.flows.execute import run_stage

    current = _open(recipe, overrides)
    with bars() as shown:
        run_stage(current, _known_stage(name), shown, source=source, shards=shards, redo=redo, plain=plain)


@app.command()
def status(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is done, what is missing, and what waits for it. Exit code 0 if everything is up to date, else 1."""
    from logitfuse.tasks.checks import check_place
    from logitfuse.tasks.execute import stage_status
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.stages import ORDER

    current = Run(read_recipe(recipe, overrides or ()))
    check_place(current.recipe)
    found = {name: stage_status(current, name) for name in ORDER}
    if as_json:
        listing = [
            {"stage": s.unit.stage, "source": s.unit.source, "shard": s.unit.shard, "state": s.state, "why": s.why}
            for statuses in found.values()
            for s in statuses
        ]
        print(json.dumps(listing))
    else:
        console.print(status_table(found))
        for damaged in (s for statuses in found.values() for s in statuses if s.state == "damaged"):
            console.print(Text.assemble((str(damaged.unit), "red"), f": {damaged.why}"), soft_wrap=True)
    if any(s.state != "done" for statuses in found.values() for s in statuses):
        raise typer.Exit(1)


app.command()(plan)
app.command()(alignment)
app.command()(verify)
app.command()(convert)
app.command()(audit)
app.command()(inspect)
app.command()(push)
app.command()(evaluate)
app.command()(worker_config)
app.command()(up)
app.command()(deploy)
app.command()(study)
app.command("results")(results_page)


@app.command()
def headroom(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """Compare the fused targets with the target model itself on validation text, before anything is trained.

    Needs stage fuse; reads shards only, no model. Example: logitfuse headroom recipe.yaml --json headroom.json
    """
    from logitfuse.flows.headroom import show_headroom
    from logitfuse.flows.written_file import write_json
    from logitfuse.tasks.execute import do_unit
    from logitfuse.tasks.headroom import read_headroom
    from logitfuse.tasks.unit import Unit

    current = _open(recipe, overrides)
    do_unit(current, Unit("headroom"))
    facts = read_headroom(current)
    if json_file is not None:
        write_json(json_file, facts)
    show_headroom(facts)


def _open(recipe: str, overrides: list[str] | None) -> Run:
    from logitfuse.tasks.checks import check_run, claim_folder, lock_warning
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run

    # This command shows its own progress; Prefect's console lines would tear it apart. Its API gets them all.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    current = Run(read_recipe(recipe, overrides or ()))
    warn_of_code(current.recipe.suites.code_that_runs)
    if not current.recipe.folder.exists():
        console.print("Checking the recipe, its models and its text; what is packaged is fetched once, to the cache.")
    check_run(current)
    _show_terms(current)
    claim_folder(current.recipe)
    if warning := lock_warning(current.recipe):
        errors.print(f"WARNING: {warning}", highlight=False, markup=False, soft_wrap=True)
    return current


def _show_terms(current: Run) -> None:
    """Show the licences of packaged models, once for each run folder."""
    from logitfuse.tasks.models.home import PACKAGE_PREFIX
    from logitfuse.tasks.packaged.models import licence_notice

    if current.recipe.folder.exists():
        return
    for settings in (current.recipe.target, *current.recipe.sources):
        if settings.model.startswith(PACKAGE_PREFIX):
            notice = licence_notice(settings.model.removeprefix(PACKAGE_PREFIX))
            console.print(Text(notice, style="dim"), soft_wrap=True)


def _known_stage(name: str) -> str:
    from logitfuse.kernels.closest_name import known_names
    from logitfuse.tasks.stages import ORDER

    if name not in ORDER:
        raise BadInput(f"stage {name!r}: there is no such stage. {known_names(name, ORDER, called='Stages')}")
    return name


def main() -> None:
    """Entry point: errors made for users are printed without a traceback, with exit code 2.

    What the operating system refuses is told the same way; a signal's exit code is 128 and its number.
    """
    try:
        with stoppable():
            app()
    except Stopped as stopped:
        _end(str(stopped), stopped.code)
    except LogitfuseError as error:
        _end(str(error), 2)
    except Exception as error:
        if (told := explained(error) or out_of_memory(error)) is None:
            raise
        _end(str(told), 2)


def _end(line: str, code: int) -> NoReturn:
    errors.print(Text.assemble(("logitfuse: ", "bold red"), line), highlight=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
