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
    said = _in_words(problem, said, path, model)
    given = problem.get("input")
    told = isinstance(given, (str, int, float, bool)) and not (is_url(str(given)) and "@" in str(given))  # a password
    shown = f" (given: {given!r})" if told else ""
    return f"{path}: {said}{shown}"


def _in_words(problem: Any, said: str, path: str, model: type[BaseModel]) -> str:
    """Return what pydantic says in its own terms, of classes and dictionaries, in those of a recipe."""
    if problem["type"] in ("model_type", "model_attributes_type"):
        fields = _fields_at(model, problem["loc"])
        return f"it holds fields, such as {path}.{fields[0]}; set those. Fields: {', '.join(fields)}"
    choices = _choices_at(model, problem["loc"])
    return f"{said}. Choices: {', '.join(choices)}" if choices and problem["type"] == "string_type" else said


def _choices_at(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """Return the strategies that a field can name, none where it is a field of another kind."""
    holder = _model_at(model, path[:-1])
    field = holder.model_fields.get(str(path[-1])) if path else None
    schema: dict[str, Any] = {}
    if field is not None and callable(field.json_schema_extra):
        field.json_schema_extra(schema)
    return list(schema.get("enum", ()))


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> Sequence[str]:
    return list(_model_at(model, path).model_fields)


def _model_at(model: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel]:
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return model
