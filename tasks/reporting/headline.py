"""The report in a few plain sentences."""

from __future__ import annotations

from typing import Any

from logitfuse.tasks.reporting.comparison import pick
from logitfuse.tasks.reporting.gains import NO_DIFFERENT, against, change, changed_by, decimals, span
from logitfuse.tasks.reporting.verdict import answer, compared
from logitfuse.tasks.results import MEAN

MOST_NAMED = 5  # sources in a sentence
CONTROL = "that of a control trained on the same text without the sources"
# Verdicts against control and target that a reader would not expect together.
TURNS = {("worse", "better"), ("unclear", "better"), ("better", "worse"), ("better", "unclear")}


def headline(facts: dict[str, Any]) -> str:
    """Return the verdict, and beside it what the control gained without the sources: that is not their merit."""
    target, alone = compared(facts, "target"), gained_alone(facts)
    if target is None or alone is None:
        return answer(facts)
    return f"{answer(facts)} Against before, its loss is {change(target)}, the control's {alone}."


def what(facts: dict[str, Any]) -> str:
    """Say which models were fused into which."""
    named = facts["sources"]
    if len(named) > MOST_NAMED:
        named = [*named[: MOST_NAMED - 1], f"{len(named) - MOST_NAMED + 1} more"]
    sources = listed(named) or "it had itself"
    other = " on other documents, as a control" if facts["fusion"].get("shuffled") else ""
    return f"{facts['target']} was trained on what {sources} predicted{other}."


def gained(facts: dict[str, Any]) -> str:
    """Say what came of it against the target as it came, and against the control."""
    target, control = compared(facts, "target"), compared(facts, "control")
    if target is None:
        return "There was no held-out text to say what that gained."
    before = f"On held-out text its loss is now {_compared(target, 'before')}"
    if control is None:
        return f"{before}; how much of that is due to the sources was not measured."
    joined = "but" if (control["verdict"], target["verdict"]) in TURNS else "and"
    alone = gained_alone(facts)
    own = f"; the control's own is {alone} {'from' if alone == NO_DIFFERENT else 'than'} before" if alone else ""
    return f"{before}, {joined} {_compared(control, CONTROL)}{own}."


def gained_alone(facts: dict[str, Any]) -> str | None:
    """Say by how much the control's loss is lower than the target's as it came; None where that is not known."""
    rows = [pick(facts["results"], role=role, domain=MEAN) for role in ("target", "control")]
    target, control = (row["nats_per_byte"] if row else None for row in rows)
    gain = compared(facts, "target")
    if gain is None or compared(facts, "control") is None or control is None or not target:
        return None
    return changed_by(100 * (target - control) / target, decimals(gain))


def _compared(row: dict[str, Any], other: str) -> str:
    if row["verdict"] != "unclear":
        return against(row, other)
    found = "only as good as" if change(row) == NO_DIFFERENT else "not shown to be other than"
    return f"{found} {other} ({span(row)})"


def listed(names: list[str]) -> str:
    """Join names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
