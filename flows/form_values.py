"""What Prefect's forms send for a field that has no input of its own, such as an option's table."""

from __future__ import annotations

import json
from typing import Any

from logitfuse.storage.errors import BadInput

KIND = "__prefect_kind"


def plain_values(given: Any, place: str = "recipe") -> Any:
    """Return parameters with JSON that a form wrapped as text, `{"__prefect_kind": "json", "value": "{}"}`, read.

    Prefect's server does that for runs that are started, but not for those of a schedule with parameters of its own.
    Raises `BadInput` for what is no JSON.
    """
    if isinstance(given, list):
        return [plain_values(value, f"{place}.{number}") for number, value in enumerate(given)]
    if not isinstance(given, dict):
        return given
    if KIND not in given:
        return {name: plain_values(value, f"{place}.{name}") for name, value in given.items()}
    return _unwrapped(given, place)


def _unwrapped(given: dict[str, Any], place: str) -> Any:
    kind, value = given[KIND], given.get("value")
    if kind in (None, "none"):
        return plain_values(value, place)
    if kind != "json":
        raise BadInput(f"{place}: a value of Prefect's kind {kind!r} cannot be used here. Give it as JSON.")
    try:
        return json.loads(value or "null")
    except (TypeError, ValueError) as error:
        raise BadInput(f"{place}: {value!r} is no JSON ({error}). Write it as JSON, for example {{}}.") from None
