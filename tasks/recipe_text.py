"""What a recipe's file says, `--set` applied, before it is validated."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.errors import BadInput
from logitfuse.storage.paths import user_path
from logitfuse.storage.yaml_text import MOST_BYTES, YamlRefused, parse_yaml


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(entry.name for entry in files("logitfuse.recipes").iterdir() if entry.name.endswith(".yaml"))


SUBJECT = ("target", "sources", "corpus")  # what a run is about: a file names at least one of them


def recipe_content(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a recipe's file says, overrides applied, before it is validated.

    Raises `BadInput` for a file that says nothing of what its run is about: it would silently be the demo's run.
    """
    content = _parse(_text_of(path), path)
    empty = not content
    for override in overrides:
        apply_override(content, override)
    if not any(content.get(name) for name in SUBJECT):
        said = "there is nothing in it" if empty else "it names no target, no sources and no corpus"
        raise BadInput(
            f"{path}: {said}. A recipe says which model learns (target), from which (sources) and on what text "
            "(corpus): logitfuse init writes one; logitfuse run demo is the demo."
        )
    return content


def _text_of(path: str) -> str:
    file = user_path(path, "recipe")
    if file.is_file():
        return read_text_file(file, path, "A recipe is a UTF-8 YAML file.")
    name = path.removesuffix(".yaml") + ".yaml"
    shipped = shipped_recipes()
    if name in shipped:
        return files("logitfuse.recipes").joinpath(name).read_text(encoding="utf-8")
    if path and file.is_dir():
        raise BadInput(
            f"{path}: this is a folder, and a recipe is a YAML file. A run's folder can be given to logitfuse inspect, "
            "report and status."
        )
    names = [recipe.removesuffix(".yaml") for recipe in shipped]
    which = known_names(path, names, called="Shipped")
    raise BadInput(f"{path}: no such file, and no shipped recipe of that name. {which}")


def read_text_file(file: Path, called: str, advice: str) -> str:
    """Return the text of a small file that a user wrote; raise `BadInput` that calls it so and ends with the advice."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise BadInput(f"{called}: it has more than {MOST_BYTES:,} bytes. {advice}")
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{called}: not UTF-8 at byte {error.start}. {advice}") from None
    except OSError as error:
        raise BadInput(f"{called}: it cannot be read ({error.strerror}). {advice}") from None


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        content = parse_yaml(text)
    except YamlRefused as error:
        raise BadInput(f"{path}: not YAML: {error}. Mend the file.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        found = "a list" if isinstance(content, list) else "a single value"
        raise BadInput(f"{path}: a recipe is fields with values, `field: value` on a line each; this is {found}.")
    return content


def apply_override(content: dict[str, Any], override: str) -> None:
    """Change a recipe's content as `field.field=value` says."""
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise BadInput(f"--set {override}: write it as field.field=value.")
    where = f"--set {override[:200]}"
    *path, last = name.split(".")
    place: Any = content
    for part in path:
        place = place[entry(place, part, where)] if isinstance(place, list) else place.setdefault(part, {})
        if not isinstance(place, (dict, list)):
            raise BadInput(f"{where}: {part!r} is a value and holds no fields. Set it whole, or leave it.")
    try:
        place[entry(place, last, where) if isinstance(place, list) else last] = parse_yaml(value)
    except YamlRefused as error:
        raise BadInput(f"{where}: the value is not YAML: {error}. Quote text that is none.") from None


def entry(place: list[Any], part: str, where: str) -> int:
    """Return the number of an entry of a list; raise `BadInput`, which begins with `where`, for what is none."""
    if not (part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < len(place)):
        raise BadInput(f"{where}: {part!r} is no number of an entry; there are {len(place)}, counted from 0.")
    return int(part)
