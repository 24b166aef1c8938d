"""The report in a few plain sentences."""

from __future__ import annotations

from typing import Any

from logitfuse.tasks.reporting.comparison import in_percent, pick
from logitfuse.tasks.results import MEAN

MOST_NAMED = 5  # sources in a sentence


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
    before = f"On held-out text its loss is now {_compared(target)} than before"
    if control is None or control["percent"] is None:
        return f"{before}; how much of that is due to the sources was not measured."
    joined = "and" if (control["percent"] >= 0) == (target["percent"] >= 0) else "but"
    return (
        f"{before}, {joined} {_compared(control)} than that of a control trained on the same text without the sources."
    )


def _compared(row: dict[str, Any]) -> str:
    lower = "lower" if row["percent"] >= 0 else "higher"
    doubt = " (which may be chance)" if row["verdict"] == "unclear" else ""
    return f"{in_percent(row['percent'])} {lower}{doubt}"


def listed(names: list[str]) -> str:
    """Join names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
