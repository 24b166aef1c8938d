"""The answer that a report begins with: did it work, by how much, is it certain, and at what cost."""

from __future__ import annotations

from typing import Any

from logitfuse.tasks.reporting.comparison import ENOUGH_DOCUMENTS, pick
from logitfuse.tasks.reporting.formats import duration, percent, size
from logitfuse.tasks.reporting.gains import NO_DIFFERENT, against, at_most, change, farthest, span
from logitfuse.tasks.results import MEAN

ROUGH = 30  # held-out documents; below, an interval by resampling them is rough
# Percent of the loss: nearer to a control is as good as the control. The interval is by text, for one training; what
# another seed would change is more than this (docs/results.md: five paired seeds, ± 0.2%).
NEGLIGIBLE = 0.1
UNKNOWN = "Not known"
Card = dict[str, Any]


def compared(facts: dict[str, Any], role: str) -> dict[str, Any] | None:
    """Return how the fused model compares with another over all held-out text; None where that was not measured."""
    row = pick(facts["gains"], role=role, domain=MEAN)
    return row if row is not None and row["percent"] is not None else None


def answer(facts: dict[str, Any]) -> str:
    """Return one sentence that says whether fusing paid, and by how much."""
    control, target = compared(facts, "control"), compared(facts, "target")
    sources = "sources" if not facts["fusion"].get("shuffled") else "shuffled sources"
    if control is not None:
        return _against_control(control, f"the same training without the {sources}", facts)
    if target is None:
        return "Whether it worked is not known: no text was held out to judge by."
    if target["verdict"] == "unclear":
        return f"No change shown: {_unclear(target, 'before', facts)}."
    after = f"{change(target)} loss than before"
    if target["verdict"] == "better":
        return f"Better than before: {after}. Whether thanks to the {sources} was not measured."
    return f"Worse than before: {after}."


def _against_control(control: dict[str, Any], called: str, facts: dict[str, Any]) -> str:
    if is_level(control, facts):
        return f"As good as its control, and no better: its loss is within {at_most(control)} of that of {called}."
    if control["verdict"] != "unclear":
        paid = "paid" if control["verdict"] == "better" else "did not pay"
        return f"Fusing {paid}: {change(control)} loss than {called}."
    return f"No gain shown: {_unclear(control, f'with {called}', facts)}."


def is_level(gain: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Say whether two models are as good as each other for certain: neither is better by more than `NEGLIGIBLE`."""
    return documents_of(facts) >= ENOUGH_DOCUMENTS and farthest(gain) <= NEGLIGIBLE


def tone(gain: dict[str, Any], facts: dict[str, Any]) -> str:
    """Return how a gain is coloured: what is level is neither better nor worse."""
    return "unclear" if is_level(gain, facts) else str(gain["verdict"])


def _unclear(gain: dict[str, Any], other: str, facts: dict[str, Any]) -> str:
    if documents_of(facts) < ENOUGH_DOCUMENTS:
        return "too little text was held out to tell"
    return f"the loss is anywhere from {span(gain)} than {other}"


def documents_of(facts: dict[str, Any]) -> int:
    """Return how many held-out documents the models were compared by."""
    return max((row["documents"] for row in facts["results"] if row["domain"] == MEAN), default=0)


def cards(facts: dict[str, Any]) -> list[Card]:
    """Return the four answers at the top: question, answer, notes, tone, and the interval that is drawn, if any."""
    control, target = compared(facts, "control"), compared(facts, "target")
    main = control or target
    return [_worked(facts, control, target), _by_how_much(facts, main, target), _certain(facts, main), _cost(facts)]


def _worked(facts: dict[str, Any], control: dict[str, Any] | None, target: dict[str, Any] | None) -> Card:
    card: Card = {"question": "Did it work?", "answer": UNKNOWN, "tone": "unclear", "notes": []}
    if control is None:
        why = "There is no control: nothing tells the sources' part from that of more training on this text."
        return card | {"notes": [why if target else "There is no held-out text to judge by."]}
    found = {
        "better": ("Yes", "The fused model is better than its control"),
        "worse": ("No", "The fused model is worse than its control"),
        "unclear": ("Not shown", "This text cannot tell the fused model from its control"),
        "level": ("No gain", "The fused model is as good as its control"),
    }
    said, note = found["level" if is_level(control, facts) else control["verdict"]]
    return card | {
        "answer": said,
        "tone": tone(control, facts),
        "notes": [f"{note}: the same training without the sources."],
    }


def _by_how_much(facts: dict[str, Any], main: dict[str, Any] | None, target: dict[str, Any] | None) -> Card:
    card: Card = {"question": "By how much?", "answer": UNKNOWN, "tone": "unclear", "notes": []}
    if main is None:
        return card
    joined = "in loss from" if change(main) == NO_DIFFERENT else "loss than"
    notes = [f"{joined} {'the control' if main['role'] == 'control' else 'before'}"]
    if target is not None and target is not main:
        notes.append(f"and {against(target, 'before')} ({span(target)})")
    return card | {"answer": change(main).capitalize(), "tone": tone(main, facts), "notes": notes}


def _certain(facts: dict[str, Any], main: dict[str, Any] | None) -> Card:
    card: Card = {"question": "Is that certain?", "answer": UNKNOWN, "tone": "", "notes": []}
    if main is None:
        return card
    documents = documents_of(facts)
    if main["verdict"] == "unclear" and not is_level(main, facts):
        said = "No, may be chance" if documents >= ENOUGH_DOCUMENTS else "No, too little text"
    else:
        said = "Yes, at 95%" if documents >= ROUGH else "Roughly"
    notes = [
        f"95% interval: {span(main)}",
        f"by {documents:,} held-out documents, for this one training",
    ]
    if domains := _domains(facts, main["role"]):
        notes.append(domains)
    return card | {"answer": said, "notes": notes, "interval": interval(main), "hollow": main["verdict"] == "unclear"}


def _domains(facts: dict[str, Any], role: str) -> str:
    """Say in how many domains the fused model is better or worse for certain."""
    verdicts = [row["verdict"] for row in facts["gains"] if row["role"] == role and row["domain"] != MEAN]
    if len(verdicts) < 2:
        return ""
    told = [f"{verdicts.count(word)} {word}" for word in ("better", "worse", "unclear") if word in verdicts]
    return f"of {len(verdicts)} domains: {', '.join(told)}"


def interval(row: dict[str, Any]) -> dict[str, float]:
    """Return where an interval, its middle and zero lie on a line from 0 to 100."""
    low, value, high = row["percent_low"], row["percent"], row["percent_high"]
    left, right = min(low, 0.0), max(high, 0.0)
    width = (right - left) or 1.0
    left, width = left - 0.08 * width, 1.16 * width
    return {name: 100 * (at - left) / width for name, at in (("low", low), ("at", value), ("high", high), ("zero", 0))}


def _cost(facts: dict[str, Any]) -> Card:
    fusion = facts["fusion"]
    notes = [
        f"of work and {size(facts['bytes'])} on disk, for {fusion['positions']:,} tokens",
        f"{percent(fusion['served_share'])} of them had a fused prediction",
    ]
    if "held_back_share" in fusion:
        notes.append(f"{percent(fusion['held_back_share'])} were held back, where no source is better than the target")
    return {"question": "At what cost?", "answer": duration(facts["seconds"]), "tone": "", "notes": notes}
