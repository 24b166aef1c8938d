"""Writes docs/recipe.md, every setting of a recipe, from the settings themselves: `python docs/recipe_reference.py`.

`--check` writes nothing; its exit code says whether the page is as it should be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from logitfuse.tasks.recipe import Recipe

PAGE = Path(__file__).with_name("recipe.md")
BEGIN = """# Recipe reference

<!-- Made by `make docs` from the settings' own declarations; do not edit it by hand. -->

A recipe is one YAML file: one run, from corpus to fused model. What is not written has the default below; a name that
does not exist is refused with the closest one that does. `--set section.field=value` on the command line and the form
in Prefect's UI set the same fields. Settings under [execution](#execution) change no result and no key; every other
field is part of the key of the stages that read it, so changing it redoes those stages and nothing else.

Shipped recipes to start from: `demo`, `default`, `paper`, `tiny`; `logitfuse init` writes one for your models.
"""
LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
NAMES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "object": "mapping"}


def page() -> str:
    """Return the page's Markdown."""
    schema = Recipe.model_json_schema()
    return "\n".join([BEGIN, *_section("", schema, schema["$defs"], {})]).rstrip() + "\n"


def _section(path: str, schema: dict[str, Any], definitions: dict[str, Any], told: dict[str, str]) -> Iterator[str]:
    """Yield a section for the fields at a path, then one for each mapping below it that is not `told` elsewhere."""
    yield f"## {path or 'The recipe'}\n"
    if path and (said := schema.get("description")):
        yield f"{_plain(said)}\n"
    below = []
    yield "| Field | Values | Default | |\n|---|---|---|---|"
    for name, field in schema["properties"].items():
        inner, many = _settings(field, definitions)
        if inner is None:
            yield f"| `{name}` | {_values(field)} | {_default(field)} | {_cell(_plain(field.get('description', '')))} |"
            continue
        place = f"{path}.{name}".lstrip(".") + ("[]" if many else "")
        if inner["title"] not in told:
            told[inner["title"]] = place
            below.append((place, inner))
        words = _plain(field.get("description", "")) or inner.get("description", "").partition("\n")[0]
        yield f"| `{name}` | {_link(told[inner['title']], many)} | | {_cell(words)} |"
    yield ""
    for place, inner in below:
        yield from _section(place, inner, definitions, told)


def _link(place: str, many: bool) -> str:
    return f"{'list, each as' if many else 'as'} [{place}](#{_anchor(place)})"


def _settings(field: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """Return the settings that a field holds, None if it holds a value; and whether it is a list of them."""
    for choice in [field, field.get("items", {}), *field.get("anyOf", [])]:
        if reference := choice.get("$ref"):
            return definitions[reference.rpartition("/")[2]], choice is field.get("items")
    return None, False


def _values(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(_values(choice) for choice in field["anyOf"])
    kind = field.get("type", "")
    if kind == "array":
        inner = [_values(kind) for kind in field.get("prefixItems", [field.get("items", {})])]
        return f"list of {', '.join(inner)}"
    limits = [words.format(field[name]) for name, words in LIMITS.items() if name in field]
    return " ".join(["empty" if kind == "null" else NAMES.get(kind, kind), ", ".join(limits)]).strip()


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "must be given"
    text = yaml.safe_dump(field["default"], default_flow_style=True, allow_unicode=True).removesuffix("...\n").strip()
    return "" if field["default"] in ("", None) else f"`{text}`"


def _plain(description: str) -> str:
    """Return a description without the field's name, which forms show at its end."""
    return re.sub(r"\s*`\w+`$", "", " ".join(description.split()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(place: str) -> str:
    """Return the anchor that Markdown makes of a heading."""
    return re.sub(r"[^\w -]", "", place.lower()).replace(" ", "-")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(page() != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page(), encoding="utf-8")
