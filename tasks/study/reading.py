"""Studies as YAML: reading them, and the recipe of each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.errors import BadInput
from logitfuse.storage.paths import user_path
from logitfuse.storage.yaml_text import YamlRefused, parse_yaml
from logitfuse.tasks.recipe_text import apply_override, entry, read_text_file, recipe_content
from logitfuse.tasks.settings_errors import explain
from logitfuse.tasks.study.likeness import resolve
from logitfuse.tasks.study.settings import Study

FOLDER = "studies"


def shipped_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    folder = files("logitfuse.recipes").joinpath(FOLDER)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_study(path: str, overrides: Sequence[str] = ()) -> tuple[Study, dict[str, Any]]:
    """Read a study from a YAML file, or a shipped one by name; return it and its base recipe's content.

    A recipe, or another study, that it names by a path is looked for beside the study's file first. `a.b=value`
    overrides come after what the study itself sets. Raises `BadInput`.
    """
    content = resolve(_content(path), path, lambda other: _content(_beside(path, other)))
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"{path}: {explain(error, Study)}") from None
    base = recipe_content(_beside(path, study.recipe))
    apply_settings(base, study.set, f"{path}: set")
    for override in overrides:
        apply_override(base, override)
    return study, base


def _beside(path: str, name: str) -> str:
    beside = user_path(path, "study").parent / user_path(name, f"{path}: recipe")
    return str(beside) if beside.is_file() else name


def apply_settings(content: dict[str, Any], changes: Mapping[str, Any], where: str) -> None:
    """Change a recipe's content: `a.b: c` replaces what stands at a.b, nested mappings add to what stands there."""
    for name, value in changes.items():
        *path, last = str(name).split(".")
        place: Any = content
        for part in path:
            place = _inside(place, part, f"{where}.{name}")
        if not path and isinstance(value, dict):
            _merge(place, last, value)
        else:
            _put(place, last, value, f"{where}.{name}")


def _merge(place: Any, name: str, changes: dict[str, Any]) -> None:
    if not isinstance(place.get(name), dict):
        place[name] = {}
    for inner, value in changes.items():
        if isinstance(value, dict):
            _merge(place[name], inner, value)
        else:
            place[name][inner] = value


def _inside(place: Any, part: str, where: str) -> Any:
    if isinstance(place, list):
        return place[entry(place, part, where)]
    if place.get(part) is None:
        place[part] = {}
    if not isinstance(place[part], (dict, list)):
        raise BadInput(f"{where}: {part!r} is a value ({place[part]!r}) and holds no fields.")
    return place[part]


def _put(place: Any, name: str, value: Any, where: str) -> None:
    if isinstance(place, list):
        place[entry(place, name, where)] = value
    else:
        place[name] = value


def _content(path: str) -> dict[str, Any]:
    file = user_path(path, "study")
    if not file.is_file():
        file = _shipped(path)
    text = read_text_file(file, path, "A study is a UTF-8 YAML file.")
    try:
        content = parse_yaml(text)
    except YamlRefused as error:
        raise BadInput(f"{path}: not YAML in UTF-8: {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: a study is a mapping of fields, not a {type(content).__name__}.")
    return content


def _shipped(path: str) -> Path:
    name, shipped = path.removesuffix(".yaml"), shipped_studies()
    if name in shipped:
        return Path(str(files("logitfuse.recipes").joinpath(FOLDER, f"{name}.yaml")))
    which = known_names(name, shipped, called="Shipped")
    raise BadInput(f"{path}: no such file, and no shipped study of that name. {which}")
