"""How a model is called for short, where the recipe gives it no name; without loading anything."""

PACKAGE_PREFIX = "package:"


def model_label(name: str, model: str) -> str:
    """Return the short name: the given one, else the last part of the model's own, as a folder may be called."""
    own = name or model.removeprefix(PACKAGE_PREFIX).rstrip("/").rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in own).strip(".").lower() or "model"
