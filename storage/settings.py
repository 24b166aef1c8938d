"""Base of all settings: what a user can set, validated once, the same for YAML, `--set` and Prefect's form."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from logitfuse.storage.urls import refuse_passwords

# What a form calls the choices of a field that may be left empty.
CHOICES = {"string": "Text", "integer": "Number", "number": "Number", "null": "Empty"}


def _drawn(schema: dict[str, Any], settings: type[BaseModel]) -> None:
    """Number the fields, whose order PostgreSQL does not keep; give every box and every choice its title."""
    for position, (name, field) in enumerate(schema["properties"].items()):
        field["position"] = position
        field.setdefault("title", settings.model_fields[name].title)  # left out where a box of settings has the same
        if "description" in field and field["title"].lower().replace(" ", "_") != name:
            field["description"] += f" `{name}`"  # by which a server's refusal calls it, and YAML
        for choice in field.get("anyOf", ()):
            if choice.get("type") in CHOICES:
                choice["title"] = CHOICES[choice["type"]]


class Settings(BaseModel):
    """Frozen, refuses unknown fields; every field of a subclass has a literal default and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), json_schema_extra=_drawn)

    @field_validator("*", mode="before")
    @classmethod
    def _holds_no_password(cls, value: Any) -> Any:
        """Whatever a field is for: what stands in it goes into records, reports and Prefect's parameters."""
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, str):
                refuse_passwords(one)
        return value


def changed_settings(settings: Settings) -> dict[str, Any]:
    """Return only what differs from the defaults, as plain JSON values.

    Keys of shards are made from this, so that a new option with its default leaves months of work valid.
    """
    return settings.model_dump(mode="json", exclude_defaults=True)
