"""Base of all settings: what a user can set, validated once, the same for YAML, `--set` and Prefect's form."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, refuses unknown fields; every field of a subclass has a literal default and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def changed_settings(settings: Settings) -> dict[str, Any]:
    """Return only what differs from the defaults, as plain JSON values.

    Keys of shards are made from this, so that a new option with its default leaves months of work valid.
    """
    return settings.model_dump(mode="json", exclude_defaults=True)
