"""What the shell offers after TAB: recipes, stages, sources, fields. Loads nothing heavy, and never fails."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

from logitfuse.storage.yaml_text import YamlRefused, parse_yaml
from logitfuse.tasks.model_labels import model_label

# As ORDER, which a test holds; that one loads torch, which takes seconds.
STAGES = ("prepare", "encode", "check", "adapt", "capture", "map", "align", "fuse", "headroom", "train", "merge",
          "evaluate", "suites", "report")  # fmt: skip
YAML = (".yaml", ".yml")


def complete_recipe(incomplete: str) -> list[str]:
    """Offer shipped recipes, YAML files and the folders that may hold some."""
    shipped = (entry.name for entry in files("logitfuse.recipes").iterdir())
    names = sorted(name.removesuffix(".yaml") for name in shipped if name.endswith(".yaml"))
    return [name for name in names if name.startswith(incomplete)] + _files(incomplete)


def _files(incomplete: str) -> list[str]:
    folder, _, begin = incomplete.rpartition("/")
    before = f"{folder}/" if "/" in incomplete else ""
    try:
        entries = sorted(os.scandir(Path(before or ".").expanduser()), key=lambda entry: entry.name)
    except (OSError, RuntimeError):
        return []
    found = []
    for entry in entries:
        if entry.name.startswith(begin) and not entry.name.startswith("."):
            found += [f"{before}{entry.name}/"] if entry.is_dir() else []
            found += [f"{before}{entry.name}"] if entry.name.endswith(YAML) else []
    return [name for name in found if name.isprintable()]


def complete_stage(incomplete: str) -> list[str]:
    """Offer the stages."""
    return [stage for stage in STAGES if stage.startswith(incomplete)]


def complete_source(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the short names of the models of the recipe that stands before."""
    # Behind an option that wants a value still, what stands before it was not told apart.
    words = [str(ctx.params.get("recipe") or ""), *reversed(ctx.args)]
    recipe = next(filter(None, map(_recipe, words)), {})
    models = [recipe.get("target"), *(recipe.get("sources") or [])]
    labels = [model_label(str(m.get("name") or ""), str(m.get("model") or "")) for m in models if isinstance(m, dict)]
    return [label for label in dict.fromkeys(labels) if label.startswith(incomplete)]


def complete_field(incomplete: str) -> list[str]:
    """Offer the fields that a recipe has, up to the next dot."""
    from logitfuse.tasks.recipe import Recipe  # takes seconds, as long as the first page of a long list

    *path, begin = incomplete.split(".")
    model: Any = Recipe
    for part in path:
        known = getattr(model, "model_fields", {})
        model = known[part].annotation if part in known else None
    fields = getattr(model, "model_fields", {})
    before = "".join(f"{part}." for part in path)
    names = (name for name in fields if name.startswith(begin))
    return [f"{before}{name}" + ("." if hasattr(fields[name].annotation, "model_fields") else "=") for name in names]


def _recipe(path: str) -> dict[str, Any]:
    try:
        file = Path(path).expanduser()
        if not file.is_file():
            file = Path(str(files("logitfuse.recipes") / f"{path.removesuffix('.yaml')}.yaml"))
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, YamlRefused):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("sources", []), list) else {}
