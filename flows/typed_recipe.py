"""The recipe as the user typed it, overrides included: a command that is shown must work as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from logitfuse.storage.errors import ShardMissing
from logitfuse.storage.urls import is_url

PLACEHOLDER = re.compile(r"(logitfuse (?:run|stage \w+|status|verify)) RECIPE\b")

_recipe: str | None = None
_overrides: list[str] = []


def typed(recipe: str, overrides: Sequence[str] | None = None) -> str:
    """Return a recipe and its overrides as arguments of a command, quoted for a shell."""
    return shlex.join([recipe, *(part for one in overrides or () for part in ("--set", one))])


def note_recipe(recipe: str) -> str:
    """Argument callback: remember the recipe of this command."""
    global _recipe
    _recipe = recipe
    return recipe


def note_unless_folder(given: str) -> str:
    """Argument callback where a run's folder may stand for its recipe: a folder is no recipe that `run` could take."""
    try:
        is_folder = Path(given).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):  # no name of a file
        is_folder = False
    return given if is_folder or is_url(given) else note_recipe(given)


@contextmanager
def advising_to_run(up_to: str = "") -> Iterator[None]:
    """Where the block misses a shard, advise to run all stages `up_to` one: those before it are likely missing, too."""
    try:
        yield
    except ShardMissing as error:
        missing = str(error).partition(" Run: ")[0]
        raise ShardMissing(f"{missing} Run: logitfuse run RECIPE{up_to and f' --stop-after {up_to}'}") from error


def note_overrides(overrides: list[str] | None) -> list[str] | None:
    """Option callback of --set."""
    global _overrides
    _overrides = list(overrides or ())
    return overrides


def with_recipe(line: str) -> str:
    """Put this command's recipe into the commands of a message, which know it only as RECIPE."""
    if _recipe is None:
        return line
    given = typed(_recipe, _overrides)
    return PLACEHOLDER.sub(lambda found: f"{found[1]} {given}", line)


def forget() -> None:
    """Forget what an earlier command of this process was given."""
    global _recipe, _overrides
    _recipe, _overrides = None, []
