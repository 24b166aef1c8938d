"""Settings fields that name a strategy: checked against its registry, shown in forms as a drop-down."""

import json
import math
from typing import Any

from pydantic import Field

from logitfuse.kernels.registry import Registry


def strategy_field(registry: Registry, default: str, title: str, description: str) -> Any:
    """Return a field whose JSON schema lists the registry's names."""

    def list_names(schema: dict[str, Any]) -> None:
        schema["enum"] = registry.names()

    return Field(default, title=title, description=description, json_schema_extra=list_names)


def options_field(registry: Registry, title: str) -> Any:
    """Return a field for a strategy's options, whose description in forms lists those of each strategy."""

    def list_options(schema: dict[str, Any]) -> None:
        known = {name: json.dumps(registry.default_options(name)) for name in registry.names()}
        told = "; ".join(f"{name} `{options}`" for name, options in known.items() if options != "{}")
        schema["description"] = f"JSON. Options and their defaults: {told}. {{}}: the defaults."

    description = f"Keyword options of the chosen {registry.kind}."
    return Field({}, title=title, description=description, json_schema_extra=list_options)


def checked_options(registry: Registry, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return validated options without those at their defaults; raises ValueError naming the closest known name."""
    return registry.check_options(name, options)


def normal_options(registry: Registry, name: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return options as keys hold them: one spelling of each value, defaults left out, infinity as text.

    `name` is None where the strategy's name was refused already.
    """
    if name is None:
        return options
    checked = checked_options(registry, name, options)
    return {name: str(v) if isinstance(v, float) and math.isinf(v) else v for name, v in checked.items()}
