"""`logitfuse clean`: list the results that a recipe does not want any more, and delete them where that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from logitfuse.flows.completion import complete_recipe
from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import JsonOption, QuietOption, SetOption, StagesOption, VerboseOption
from logitfuse.flows.pace import quantity
from logitfuse.flows.show import bars, console, errors
from logitfuse.flows.typed_recipe import note_unless_folder, typed
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.tasks.clean import StageStale, Stale
    from logitfuse.tasks.recipe import Recipe
    from logitfuse.tasks.verify.standing import StandingRun

SHARED = (
    "Every recipe of the same target and corpus may use this run folder, and it is not recorded which of them somebody "
    "still wants: results of other settings (--set, edited recipes) are among them."
)


def clean(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FOLDER",
            help="A recipe, or the folder of a run whose report tells its recipe.",
            autocompletion=complete_recipe,
            callback=note_unless_folder,
        ),
    ],
    overrides: SetOption = None,
    stages: StagesOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without it nothing is changed.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List the results that this recipe does not want any more, by stage, and with --yes delete them.

    What it wants always stays. A stage of which nothing that it wants is there yet is kept, unless named by --stage.
    Refused while another process works in the folder. Interrupted, it goes on when called again.
    Examples: logitfuse clean recipe.yaml · logitfuse clean recipe.yaml --stage capture --yes
    """
    from logitfuse.flows.verify import chosen_stages
    from logitfuse.tasks.checks import check_folder, lock_warning
    from logitfuse.tasks.clean import stale_of
    from logitfuse.tasks.inspect.opened import recipe_of
    from logitfuse.tasks.verify.standing import StandingRun

    chosen = chosen_stages(stages)
    run = StandingRun(recipe_of(recipe, overrides or ()))
    check_folder(run.recipe)
    if run.store.is_empty():
        raise BadInput(f"run folder {run.store.place}: there is nothing to clean.")
    found = [stale_of(run, stage) for stage in chosen]
    going = [stage for stage in found if stage.stale and (stages or not stage.is_all_there_is)]
    if yes:
        _refuse_beside_others(run)
        if warning := lock_warning(run.recipe):
            errors.tell(f"WARNING: {warning}")
        _delete(run, [one for stage in going for one in stage.stale or ()])
    if as_json:
        answer(facts(run.recipe, found, going, deleted=yes))
        return
    if not quiet and any(stage.stale for stage in found):
        console.print(stages_table(found))
    for line in said(run.recipe, found, going):
        if not quiet:
            console.tell(line)
    console.tell(outcome(going, f"logitfuse clean {typed(recipe, [*(overrides or ())])}", stages or (), deleted=yes))


def _refuse_beside_others(run: StandingRun) -> None:
    """Raise `BadInput` where a process is at work in the run folder, or where a study's results are."""
    from logitfuse.flows.progress_notes import read_notes

    if is_studied(run.recipe):
        raise BadInput(f"run folder {run.store.place}: {study_words()} Nothing was deleted.")
    if notes := read_notes(run.store):
        raise BadInput(
            f"run folder {run.store.place}: process {notes[0].pid} on {notes[0].host} is at work there, with stage "
            f"{notes[0].stage}. Nothing is deleted beside it: wait for it, or stop it."
        )


def is_studied(recipe: Recipe) -> bool:
    """Return whether a study is kept in a run folder."""
    from logitfuse.tasks.study.opened import study_folder

    return study_folder(recipe).is_dir()


def study_words() -> str:
    """Say why a study's folder is left as it is."""
    return "a study is kept there, whose variants and seeds are settings that no one recipe has."


def _delete(run: StandingRun, going: Sequence[Stale]) -> None:
    """Delete results, with a line in the run's journal."""
    from logitfuse.flows.execute import journal
    from logitfuse.storage.system_errors import in_words
    from logitfuse.tasks.checks import sweep_folder
    from logitfuse.tasks.clean import refuse_at_work, remove_stale

    refuse_at_work(run.store)
    with bars() as shown, in_words("clean", run.store.root), journal(run.recipe.folder, "clean") as line:
        progress, gone, freed = shown.report("clean", "results"), 0, 0

        def removed(one: Stale) -> None:
            nonlocal gone, freed
            gone, freed = gone + 1, freed + one.found.bytes
            line.update(removed=gone, bytes=freed)
            progress(gone, len(going))

        sweep_folder(run.recipe.folder)
        remove_stale(run.store, going, removed)


def stages_table(found: Sequence[StageStale]) -> Table:
    """A row per stage that has something which is not wanted."""
    table = Table(title="What this recipe does not want", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for column in ("results", "unfinished", "size", "wanted", "there"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage in found:
        if stage.stale:
            finished = sum(one.finished for one in stage.stale)
            numbers = (finished, len(stage.stale) - finished)
            shown = [f"{number:,}" if number else "" for number in numbers]
            wanted = (f"{stage.wanted:,}", f"{stage.standing:,}")
            table.add_row(stage.stage, *shown, quantity(stage.bytes, "bytes"), *wanted)
    return table


def said(recipe: Recipe, found: Sequence[StageStale], going: Sequence[StageStale]) -> Iterator[str]:
    """Say in words what differs, what is kept all the same and why, and what cannot be known."""
    for stage in found:
        for why, count in Counter(one.why for one in stage.stale or ()).items():
            yield f"{stage.stage}: {count:,} {why}"
    for stage in found:
        if stage.stale and stage not in going:
            yield (
                f"{stage.stage} is kept: none of the {stage.wanted:,} that this recipe wants is there. Run it first, "
                f"or name it: --stage {stage.stage}"
            )
        if stage.newer:
            yield f"{stage.stage}: {stage.newer:,} of a newer logitfuse are kept; upgrade to judge them."
    if unknown := [stage.stage for stage in found if stage.stale is None]:
        yield f"{', '.join(unknown)}: kept, for what is wanted there is known once the stages before are done."
    if going:
        yield SHARED
        if is_studied(recipe):
            yield f"--yes is refused: {study_words()}"
        if recipe.place != str(recipe.folder):
            yield "Who works in an object store on other machines is not seen here: nobody should while --yes deletes."


def outcome(going: Sequence[StageStale], command: str, stages: Sequence[str], *, deleted: bool) -> str:
    """Say in a line what was, or would be, deleted."""
    count, size = sum(len(stage.stale or ()) for stage in going), sum(stage.bytes for stage in going)
    if not count:
        return "There is nothing to delete."
    results = "1 result" if count == 1 else f"{count:,} results"
    freed = quantity(size, "bytes")
    if deleted:
        return f"{results} deleted, {freed} freed."
    named = "".join(f" --stage {stage}" for stage in stages)
    return f"Nothing was deleted. To delete {results} and free {freed}: {command}{named} --yes"


def facts(recipe: Recipe, found: Sequence[StageStale], going: Sequence[StageStale], *, deleted: bool) -> dict[str, Any]:
    """Return what `--json` prints; `results` are those that are, or would be, deleted."""
    return {
        "place": recipe.place,
        "deleted": deleted,
        "bytes": sum(stage.bytes for stage in going),
        "stages": [
            {
                "stage": stage.stage,
                "stale": None if stage.stale is None else len(stage.stale),
                "bytes": stage.bytes,
                "wanted": stage.wanted,
                "standing": stage.standing,
                "kept": bool(stage.stale) and stage not in going,
            }
            for stage in found
        ],
        "results": [
            {
                "stage": stage.stage,
                "folder": one.found.folder,
                "key": one.found.key,
                "bytes": one.found.bytes,
                "finished": one.finished,
                "why": one.why,
            }
            for stage in going
            for one in stage.stale or ()
        ],
        "study": is_studied(recipe),
    }
