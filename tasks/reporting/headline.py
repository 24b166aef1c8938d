"""The report in a few plain sentences."""

from __future__ import annotations

from typing import Any

from logitfuse.tasks.reporting.comparison import pick
from logitfuse.tasks.reporting.gains import NO_DIFFERENT, against, change, span
from logitfuse.tasks.results import MEAN

MOST_NAMED = 5  # sources in a sentence
CONTROL = "that of a control trained on the same text without the sources"
# Verdicts against control and target that a reader would not expect together.
TURNS = {("worse", "better"), ("unclear", "better"), ("better", "worse"), ("better", "unclear")}


def headline(facts: dict[str, Any]) -> str:
    """Return one sentence: what was fused into what, and what that gained."""
    return f"{what(facts)} {gained(facts)}"


def what(facts: dict[str, Any]) -> str:
    """Say which models were fused into which."""
    named = facts["sources"]
    if len(named) > MOST_NAMED:
        named = [*named[: MOST_NAMED - 1], f"{len(named) - MOST_NAMED + 1} more"]
    sources = listed(named) or "what it had predicted itself"
    other = " on other documents, as a control" if facts["fusion"].get("shuffled") else ""
    return f"{facts['target']} learned from {sources}{other}."


def gained(facts: dict[str, Any]) -> str:
    """Say what came of it against the target as it came, and against the control."""
    target, control = (pick(facts["gains"], role=role, domain=MEAN) for role in ("target", "control"))
    if target is None or target["percent"] is None:
        return "There was no held-out text to say what that gained."
    before = f"On held-out text its loss is now {_compared(target, 'before')}"
    if control is None or control["percent"] is None:
        return f"{before}; how much of that is due to the sources was not measured."
    joined = "but" if (control["verdict"], target["verdict"]) in TURNS else "and"
    return f"{before}, {joined} {_compared(control, CONTROL)}."


def _compared(row: dict[str, Any], other: str) -> str:
    if row["verdict"] != "unclear":
        return against(row, other)
    found = "only as good as" if change(row) == NO_DIFFERENT else "not shown to be other than"
    return f"{found} {other} ({span(row)})"


def listed(names: list[str]) -> str:
    """Join names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
