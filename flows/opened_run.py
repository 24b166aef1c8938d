"""Opening a run for a command that is about to work: checked, its licences shown, its folder claimed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.text import Text

from logitfuse.flows.loudness import PREFECTS_LEVEL
from logitfuse.flows.show import console, errors, warn_of_code
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run


def open_run(recipe: str, overrides: list[str] | None) -> Run:
    """Read a recipe, refuse what can be seen to fail, and claim its folder; raises what `check_run` raises."""
    from logitfuse.tasks.checks import check_run, claim_folder, lock_warning
    from logitfuse.tasks.recipe import read_recipe
    from logitfuse.tasks.run import Run

    # This command shows its own progress; Prefect's console lines would tear it apart. Its API gets them all.
    os.environ.setdefault(PREFECTS_LEVEL, "ERROR")
    current = Run(read_recipe(recipe, overrides or ()))
    warn_of_code(current.recipe.suites.code_that_runs)
    if not current.recipe.folder.exists():
        console.print("Checking the recipe, its models and its text; what is packaged is fetched once, to the cache.")
    check_run(current)
    _show_terms(current)
    claim_folder(current.recipe)
    if warning := lock_warning(current.recipe):
        errors.tell(f"WARNING: {warning}")
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
            console.tell(Text(notice, style="dim"))


def known_stage(name: str) -> str:
    """Return a stage's name; raise `BadInput` with the closest one if there is none of that name."""
    from logitfuse.kernels.closest_name import known_names
    from logitfuse.tasks.stages import ORDER

    if name not in ORDER:
        raise BadInput(f"stage {name!r}: there is no such stage. {known_names(name, ORDER, called='Stages')}")
    return name
