"""Everything that a run would be refused for, not the first thing only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from logitfuse.storage.errors import LogitfuseError
from logitfuse.storage.system_errors import explained
from logitfuse.tasks.about import about
from logitfuse.tasks.checks import check_model, checks_of
from logitfuse.tasks.models.source import read_source

if TYPE_CHECKING:
    from logitfuse.tasks.models.reference import ModelSettings
    from logitfuse.tasks.run import Run


def refusals(run: Run) -> list[str]:
    """Do every check of a run and return what they refuse, each thing once."""
    found = dict.fromkeys(told for check in checks_of(run) if (told := _refused(check)))
    if found:  # the check of the models ends with the first bad one
        found |= dict.fromkeys(told for check in _each_model(run) if (told := _refused(check)))
    return list(found)


def _refused(check: Callable[[], None]) -> str | None:
    """Return what a check refuses, None if nothing."""
    try:
        check()
    except LogitfuseError as error:
        return str(error)
    except Exception as error:
        if (told := explained(error)) is None:
            raise
        return str(told)
    return None


def _each_model(run: Run) -> Iterator[Callable[[], None]]:
    recipe = run.recipe
    named = {"target.model": recipe.target} | {f"sources.{n}.model": one for n, one in enumerate(recipe.sources)}
    for field, settings in named.items():
        yield lambda field=field, settings=settings: _check_one(field, settings, recipe.capture.k)  # type: ignore[misc]


def _check_one(field: str, settings: ModelSettings, k: int) -> None:
    with about(field):
        source = read_source(settings)
    check_model(source, k)
