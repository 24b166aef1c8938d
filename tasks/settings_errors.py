"""What pydantic refuses, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from logitfuse.kernels.closest_name import did_you_mean
from logitfuse.storage.urls import is_url


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in plain words which fields are wrong, and the closest known name of unknown ones."""
    return "\n  ".join([""] + [_explain_one(problem, model) for problem in error.errors()]).strip()


def _explain_one(problem: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "recipe"
    said = problem["msg"].removeprefix("Value error, ")
    begins = said.partition(":")[0].partition(".")[0]
    if ":" in said and begins in _fields_at(model, problem["loc"]):  # it names the very field below
        return f"{path}.{said}" if problem["loc"] else said
    if problem["type"] == "extra_forbidden":
        known = list(_fields_at(model, problem["loc"][:-1]))
        hint = did_you_mean(str(problem["loc"][-1]), known).strip()
        return f"{path}: there is no such field. {hint or 'Known: ' + ', '.join(known) + '.'}"
    given = problem.get("input")
    told = isinstance(given, (str, int, float, bool)) and not (is_url(str(given)) and "@" in str(given))  # a password
    shown = f" (given: {given!r})" if told else ""
    return f"{path}: {said}{shown}"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> Sequence[str]:
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(model.model_fields)
