"""Settings fields that name a strategy: checked against its registry, shown in forms as a drop-down."""

from typing import Any

from pydantic import Field

from logitfuse.kernels.registry import Registry


def strategy_field(registry: Registry, default: str, title: str, description: str) -> Any:
    """Return a field whose JSON schema lists the registry's names."""

    def list_names(schema: dict[str, Any]) -> None:
        schema["enum"] = registry.names()

    return Field(default, title=title, description=description, json_schema_extra=list_names)


def checked_options(registry: Registry, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return validated options without those at their defaults; raises ValueError naming the closest known name."""
    return registry.check_options(name, options)
