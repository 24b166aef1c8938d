"""Everything that a run would be refused for, not the first thing only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from logitfuse.storage.errors import LogitfuseError
from logitfuse.storage.system_errors import explained
from logitfuse.tasks.about import about
from logitfuse.tasks.checks import check_model, checks_before_models, checks_of, refuse_same_weights

if TYPE_CHECKING:
    from logitfuse.tasks.models.reference import ModelSettings
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run


def refusals(run: Run) -> list[str]:
    """Do every check of a run and return what they refuse, each thing once."""
    if _refused(lambda: _read_all(run)) is None:
        return _all_refused(checks_of(run))
    read: list[Source] = []  # what needs all of them cannot be asked
    return _all_refused([*checks_before_models(run), *_each_model(run, read), lambda: refuse_same_weights(read)])


def _read_all(run: Run) -> None:
    _ = run.given  # which the run keeps


def _all_refused(checks: Iterable[Callable[[], None]]) -> list[str]:
    return list(dict.fromkeys(told for check in checks if (told := _refused(check)) is not None))


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


def _each_model(run: Run, read: list[Source]) -> Iterator[Callable[[], None]]:
    """Yield a check of each model by itself; those that can be read are noted in `read`."""
    recipe = run.recipe
    named = {"target": recipe.target} | {f"sources.{n}": one for n, one in enumerate(recipe.sources)}
    for field, settings in named.items():

        def check(field: str = field, settings: ModelSettings = settings) -> None:
            with about(f"{field}.model"):
                source = run.read(settings)
            if field != "target" or recipe.include_target:
                read.append(source)
            check_model(field, source, recipe.capture.k)

        yield check
