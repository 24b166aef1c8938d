"""Messages name a recipe's fields as YAML does; whoever filled in a form knows them by their titles."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel

FIELD = re.compile(r"^(\s*)([a-z]\w*(?:\.\w+)*): ", re.MULTILINE)


def with_titles(message: str, model: type[BaseModel]) -> str:
    """Add to each field that begins a line its titles in the form, where they say anything new.

    `train.clm_weight: …` becomes `train.clm_weight (Train → Weight of the labels (λ)): …`.
    """

    def titled(found: re.Match[str]) -> str:
        path = found[2].split(".")
        titles = _titles(path, model)
        if [_plain(title) for title in titles] in ([], [part for part in path if not part.isdecimal()]):
            return found[0]
        return f"{found[1]}{found[2]} ({' → '.join(titles)}): "

    return FIELD.sub(titled, message)


def _titles(path: Sequence[str], model: type[BaseModel] | None) -> list[str]:
    """Return the titles along a path into settings; none if it leads nowhere."""
    titles: list[str] = []
    for part in path:
        if part.isdecimal() and titles:
            titles[-1] += f" {int(part) + 1}"
            continue
        field = model.model_fields.get(part) if model is not None else None
        if field is None:
            return titles if model is None else []  # below a field that is no box, such as an option's name
        titles.append(field.title or part)
        model = _box(field.annotation)
    return titles


def _box(annotation: object) -> type[BaseModel] | None:
    """Return the settings that a field's annotation holds, if it does."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_box(argument) for argument in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found is not None), None)


def _plain(title: str) -> str:
    return title.lower().replace(" ", "_")
