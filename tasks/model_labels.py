"""How a model is called for short, where the recipe gives it no name; without loading anything."""

from __future__ import annotations

from collections.abc import Collection, Sequence

PACKAGE_PREFIX = "package:"


def model_label(name: str, model: str) -> str:
    """Return the short name: the given one, else the last part of the model's own, as a folder may be called."""
    own = name or model.removeprefix(PACKAGE_PREFIX).rstrip("/").rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in own).strip(".").lower() or "model"


def names_apart(models: Sequence[tuple[str, str]], taken: Collection[str] = ()) -> list[str]:
    """Return a name for each (given name, model or its whole path) with which no two are called the same.

    Where the last part does not tell a model apart, or is among `taken`, the lowest folder above it that does comes
    before it: a/fused and b/fused become a-fused and b-fused. What has a given name keeps that; what cannot be told
    apart keeps the name it had.
    """
    names = [name for name, _ in models]
    labels = [model_label(name, model) for name, model in models]
    unclear = [i for i, label in enumerate(labels) if not names[i] and (label in taken or labels.count(label) > 1)]
    above = {i: _above(models[i][1]) for i in unclear}
    for height in range(min(map(len, above.values()), default=0)):
        tried = [f"{above[i][height]}-{label}" if i in above else label for i, label in enumerate(labels)]
        found = [model_label(name, "") for name in tried]
        if len(set(found)) == len(found) and not any(found[i] in taken for i in unclear):
            return [found[i] if i in above else name for i, name in enumerate(names)]
    return names


def _above(model: str) -> list[str]:
    """Return what stands before the last part of a model's name, the nearest first."""
    parts = [part for part in model.replace(PACKAGE_PREFIX, "package/", 1).split("/") if part]
    return [part.strip(".:") for part in reversed(parts[:-1])]
