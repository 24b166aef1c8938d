"""Opening the run that a user names: by its recipe, or by its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.store import only_a_file
from logitfuse.tasks.recipe import Recipe, parse_recipe, read_recipe
from logitfuse.tasks.recipe_text import apply_override

REPORT = "report.json"


def recipe_of(given: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a YAML file, of a shipped name, or of a run folder whose report tells it.

    Raises `BadInput` for a folder without a readable report: a run folder does not hold its recipe otherwise.
    """
    folder = Path(given).expanduser()
    if not folder.is_dir():
        return read_recipe(given, overrides)
    content = {
        **_reported(folder),
        "name": folder.resolve().name,
        "execution": {"folder": str(folder.resolve().parent)},
    }
    for override in overrides:
        apply_override(content, override)
    return parse_recipe(content, str(folder / REPORT))


def _reported(folder: Path) -> dict[str, Any]:
    """Return what a run's report says its recipe sets."""
    try:
        found = json.loads(only_a_file(folder / REPORT).read_text("utf-8"))["recipe"]
    except (OSError, ShardCorrupt, ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadInput(
            f"{folder}: a run folder tells its recipe only by its {REPORT}, and there is none that can be read. Give "
            "the recipe instead: a YAML file, or the name of a shipped one."
        )
    return found
