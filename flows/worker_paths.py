"""A recipe's paths as a worker sees them, which starts in the folder of its deployment, not in that of who submits."""

from __future__ import annotations

import copy
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitfuse.storage.paths import user_path
from logitfuse.storage.urls import is_url
from logitfuse.tasks.models.home import PACKAGE_PREFIX

FIELDS = (("target", "model"), ("corpus", "source"), ("suites", "include_path"))  # and each source's model
FILES = (".jsonl", ".json", ".ndjson", ".gz", ".parquet", ".txt")


def for_worker(content: dict[str, Any], folder: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a recipe's content for a worker that starts in `folder`, and the paths that were made absolute, by field.

    These are relative ones, or such with `~`, of what is there as seen from this process's folder. Where the worker
    starts in the same folder nothing changes. `execution.folder` stays: below the worker's folder is where runs lie.
    """
    told = copy.deepcopy(content)
    changed: dict[str, str] = {}
    if folder is not None and Path(folder).resolve() == Path.cwd():
        return told, changed
    for field, holder, name in _paths(told):
        path = user_path(holder[name], field)
        if not Path(holder[name]).is_absolute() and _is_here(path):
            holder[name] = changed[field] = str(Path.cwd() / path)
    return told, changed


def not_here(content: dict[str, Any]) -> dict[str, str]:
    """Return the paths, by field, of what this machine has not; a name that a hub may have is no path."""
    found = {field: holder[name] for field, holder, name in _paths(content)}
    return {field: given for field, given in found.items() if _is_path(given) and not _is_here(user_path(given, field))}


def _paths(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield each field that may hold a path: what it is called, what holds it, and its name there."""
    holders = [(f"{part}.{name}", content.get(part) or {}, name) for part, name in FIELDS]
    holders += [(f"sources.{n}.model", source, "model") for n, source in enumerate(content.get("sources") or ())]
    for field, holder, name in holders:
        given = holder.get(name)
        if given and not is_url(given) and not given.startswith(PACKAGE_PREFIX):
            yield field, holder, name


def _is_here(path: Path) -> bool:
    return path.exists() or (glob.has_magic(str(path)) and any(glob.iglob(str(path), recursive=True)))


def _is_path(given: str) -> bool:
    return given.startswith((".", "/", "~")) or given.endswith(FILES) or given.count("/") > 1 or glob.has_magic(given)
