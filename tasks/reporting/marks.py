"""How models and domains look in drawings, tables and legends: everywhere the same mark and colour."""

from __future__ import annotations

from typing import Any

from logitfuse.tasks.results import MEAN

# Marker, the same as a character, and the name of its colour in a palette.
SOURCE_SHAPES = [("s", "■"), ("^", "▲"), ("v", "▼"), ("<", "◀"), (">", "▶"), ("P", "✚")]
ROLES = {
    "target": ("o", "○", "target"), "base": ("x", "×", "faint"),
    "control": ("D", "◆", "control"), "fused": ("o", "●", "fused"),
    "pair": ("p", "⬟", "fused"), "ensemble": ("*", "★", "other"), "merged": ("h", "⬢", "other"),
}  # fmt: skip
CALLED = {"target": "target, before", "source": "source", "base": "not adapted", "pair": "one source"}
AGAINST = {"target": "before", "control": "the control"}  # what the fused model is compared with, by role
ALL_TEXT = "all text"
ORDER = ["fused", "merged", "control", "pair", "target"]  # what was made comes first, and sources last
LONGEST_NAME = 18  # characters beside a drawing


def shown_domain(domain: str) -> str:
    """Name the mean over all domains so that nobody takes it for a domain."""
    return ALL_TEXT if domain == MEAN else domain


def shortened(name: str) -> str:
    """Cut a name to what fits beside a drawing."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def all_text_first(domains: list[str]) -> list[str]:
    """Return domains in their order, each once, all text before them: the answer comes first."""
    return sorted(dict.fromkeys(domains), key=lambda domain: domain != MEAN)


def look(role: str, number: int) -> tuple[str, str, str]:
    """Return marker, the same as a character, and colour of a model; sources differ by shape."""
    return ROLES[role] if role in ROLES else (*SOURCE_SHAPES[number % len(SOURCE_SHAPES)], "source")


def role_of_arm(arm: str) -> str:
    """Return the role of a trained model: fused, control, or pair where it learnt from one source."""
    return arm if arm in ROLES else "pair"


def models_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each model once with its role, what that is called, its mark and its colour's name."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if not any((m["model"], m["role"]) == (row["model"], row["role"]) for m in found):
            marker, glyph, colour = look(row["role"], sum(m["role"] == "source" for m in found))
            called = "" if row["role"] == row["model"] else CALLED.get(row["role"], row["role"])
            found.append(
                {"model": row["model"], "role": row["role"], "called": called}
                | {"marker": marker, "glyph": glyph, "colour": colour}
            )
    return sorted(found, key=lambda model: ORDER.index(model["role"]) if model["role"] in ORDER else len(ORDER))
