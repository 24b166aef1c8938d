"""What a reader must know before believing the numbers: warnings, the gravest first."""

from __future__ import annotations

from typing import Any, NamedTuple

from logitfuse.tasks.reporting.comparison import pick
from logitfuse.tasks.reporting.gains import change, span
from logitfuse.tasks.reporting.headline import listed
from logitfuse.tasks.results import MEAN

FEW_DOCUMENTS = 30
LITTLE_SERVED = 0.5
LITTLE_MASS = 0.5
MUCH_BEYOND_CONTEXT = 0.01
CONTROL = "the control, which saw the same text without the sources"
NO_CONTROL = "There is no control: what is due to the sources and what to more training on this text is not known."
# What is the answer itself stands where answers do; what is serious may turn it round.
WEIGHTS = SERIOUS, ANSWER, CARE, NOTE = "serious", "answer", "care", "note"


class Caution(NamedTuple):
    """A warning and its weight, one of `WEIGHTS`."""

    weight: str
    text: str


def cautions(facts: dict[str, Any]) -> list[str]:
    """Return the warnings of a report, in plain words."""
    return [caution.text for caution in weighed(facts)]


def weighed(facts: dict[str, Any]) -> list[Caution]:
    """Return the warnings with their weight, the gravest first."""
    found = [
        *_of(SERIOUS, _control_of_regularisation(facts)),
        *_of(SERIOUS, cautions_of_headroom(facts)),
        *_of(SERIOUS, _compared(facts, "target", "the target as it came")),
        *_of(ANSWER if has_control(facts) else SERIOUS, _compared(facts, "control", CONTROL)),
        *_of(CARE, _worse_domains(facts)),
        *_of(CARE, _left_out(facts)),
        *_of(CARE, _fusion(facts)),
        *_of(CARE, _alignment(facts)),
        *_few_documents(facts),
        *_of(CARE, _quarantined(facts)),
    ]
    return sorted(found, key=lambda caution: WEIGHTS.index(caution.weight))


def beside_the_answer(facts: dict[str, Any]) -> list[Caution]:
    """Return the warnings that a page lists: all but what its answer says itself."""
    return [caution for caution in weighed(facts) if caution.weight != ANSWER]


def gravest(facts: dict[str, Any]) -> str:
    """Say in a line how many warnings the page lists, and what the gravest begins with; nothing if there are none."""
    found = beside_the_answer(facts)
    if not found:
        return ""
    first = found[0].text.partition(". ")[0].rstrip(".")
    return f"{len(found)} warnings in the report, first: {first}." if len(found) > 1 else f"A warning: {first}."


def has_control(facts: dict[str, Any]) -> bool:
    """Say whether the fused model was compared with a control."""
    return pick(facts["gains"], role="control", domain=MEAN) is not None


def _of(weight: str, texts: list[str]) -> list[Caution]:
    return [Caution(weight, text) for text in texts]


def _control_of_regularisation(facts: dict[str, Any]) -> list[str]:
    if not facts["fusion"].get("shuffled"):
        return []
    return [
        "This run is a control: its sources' predictions are those on other documents (fuse.shuffled). What it gains "
        "over the control without sources is due to soft targets as such, and to nothing that the sources know."
    ]


def cautions_of_headroom(facts: dict[str, Any]) -> list[str]:
    """Return what stage headroom warned of before training: targets that are worse than the student they teach."""
    headroom = facts.get("headroom", {"measured": True, "warnings": []})
    if not headroom["measured"]:
        return [f"Whether the fused targets are better than the target model is not known: {headroom['why_not']}"]
    return list(headroom["warnings"])


def _compared(facts: dict[str, Any], role: str, called: str) -> list[str]:
    row = pick(facts["gains"], role=role, domain=MEAN)
    if row is None:
        return [NO_CONTROL] if role == "control" else []
    if row["verdict"] == "worse":
        return [f"The fused model is worse than {called}: {interval_in_words(row)}."]
    if row["verdict"] == "unclear":
        return [f"The fused model cannot be told from {called}: {interval_in_words(row)}."]
    return []


def interval_in_words(row: dict[str, Any]) -> str:
    """Say a gain with its interval: 'its loss is 2.1% lower (95% interval: 1.2% to 3.0%)'."""
    if row["percent"] is None or row["percent"] != row["percent"]:
        return "there is no held-out text to tell by"
    return f"its loss is {change(row)} (95% interval: {span(row)})"


def _worse_domains(facts: dict[str, Any]) -> list[str]:
    found = []
    for role, called in (("target", "the target as it came"), ("control", "the control")):
        worse = [
            g["domain"] for g in facts["gains"] if g["role"] == role and g["verdict"] == "worse" and g["domain"] != MEAN
        ]
        if worse:
            found.append(f"It is worse than {called} on: {', '.join(worse)}.")
    return found


def _left_out(facts: dict[str, Any]) -> list[str]:
    found = []
    for arm, told in facts["training"].items():
        if count := told.get("skipped_steps"):
            first = told["skipped"][0] if told["skipped"] else None
            named = f": first step {first['step']}, {first['why']} ({', '.join(first['documents'])})" if first else ""
            found.append(f"{count} of {told['steps']} training steps of {arm} were left out{named}.")
    return found


def _fusion(facts: dict[str, Any]) -> list[str]:
    fusion = facts["fusion"]
    unused = [label for label, share in fusion["weights"].items() if share == 0 and len(fusion["weights"]) > 1]
    are = "is" if len(unused) == 1 else "are"
    found = [f"{listed(unused)} {are} never used: another source predicts every document better."] if unused else []
    if fusion["served_share"] < LITTLE_SERVED:
        found.append(
            f"Only {fusion['served_share']:.0%} of the positions have a fused prediction; the others learn from the "
            "text alone."
        )
    return found


def _alignment(facts: dict[str, Any]) -> list[str]:
    found = []
    for label, row in facts["alignment"].items():
        if row["served_share"] < LITTLE_SERVED:
            found.append(f"{label} serves only {row['served_share']:.0%} of the target's positions.")
        if row["mass_kept"] < LITTLE_MASS:
            found.append(_little_mass(label, row["mass_kept"], itself=label == facts["target"]))
        if row["beyond_context_share"] > MUCH_BEYOND_CONTEXT:
            found.append(f"{row['beyond_context_share']:.0%} of the text is longer than {label} can read.")
    return found


def _little_mass(label: str, kept: float, *, itself: bool) -> str:
    """Say why little of a model's probability is left: its own vocabulary is the target's, so there it is k alone."""
    if itself:
        return (
            f"Of {label}'s own probability only {kept:.0%} was captured: it spreads over more than the k likeliest "
            "tokens. Raise capture.k."
        )
    return (
        f"{label} keeps only {kept:.0%} of its probability on the target's vocabulary: the rest was not among its k "
        "likeliest tokens, for which raise capture.k, or has no counterpart there."
    )


def _few_documents(facts: dict[str, Any]) -> list[Caution]:
    """Warn of few documents: of all together it concerns the answer, of a domain only its row."""
    counts = {row["domain"]: row["documents"] for row in facts["results"]}
    few = [f"{domain} ({n})" for domain, n in counts.items() if n < FEW_DOCUMENTS and domain != MEAN]
    if counts.get(MEAN, FEW_DOCUMENTS) < FEW_DOCUMENTS:
        text = f"All domains together have {counts[MEAN]} held-out documents, so take every interval as rough."
        return [Caution(SERIOUS, text)]
    text = f"Fewer than {FEW_DOCUMENTS} held-out documents, so take the intervals as rough: {', '.join(few)}."
    return [Caution(NOTE, text)] if few else []


def _quarantined(facts: dict[str, Any]) -> list[str]:
    said = facts.get("corpus", {}).get("quarantined")
    return [f"{said}."] if said else []
