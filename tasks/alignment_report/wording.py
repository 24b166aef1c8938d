"""What the terminal and the page call things, and how they write shares."""

from __future__ import annotations

from typing import Any

HOW = {
    "exact": "byte-exact",
    "role": "by role",
    "byte": "by byte",
    "first_piece": "by first piece",
    "learned": "learned from text",
    "distance": "by edit distance",
    "unmapped": "not mapped",
}
SEGMENTS = {
    "1-1": "one token on both sides",
    "1-n": "one of the source, several of the target",
    "n-1": "several of the source, one of the target",
    "n-m": "several on both sides",
}
READ = {
    "read_further": "there, the source has read further",
    "read_less": "there, the source has read less",
    "read_unknown": "there, it cannot be told",
}
MISSING = "–"


def notes_on_maps(facts: dict[str, Any]) -> list[str]:
    """Say what a reader must know about the maps of a report."""
    found = [
        f"Map {name} was fitted on this very text, so its shares are at their best."
        for name, of in facts["maps"].items()
        if of["fitted_on_the_text"]
    ]
    if facts["same_tokenizer"]:
        return found
    if any(method["map"] == "first_piece" for method in facts["methods"]):
        found.append(
            "A recipe's default map is learned, which counts on the training text; first_piece needs no text. "
            "--map learned counts on the text of this report."
        )
    ids = f"{facts['source']['ids']:,} pieces with {facts['target']['ids']:,}"
    found += [
        f"Map {name} is not shown: comparing {ids} by edit distance takes a while. --compare or --map {name} shows it."
        for name in facts["not_counted"]
    ]
    return found


def notes_on_reading(facts: dict[str, Any]) -> list[str]:
    """Say which alignments serve positions by a source that has read what is yet to be predicted."""
    return [
        f"{method['alignment']} teaches from the future at {percent(method['read_further'])} of the positions it "
        "serves: the source had read text there that the target has yet to predict. offsets never does."
        for method in facts["methods"]
        if method["read_further"]
    ]


def percent(share: float | None) -> str:
    """Write a share with one decimal, a dash where there is none; only nothing is 0% and only all is 100%."""
    if share is None:
        return MISSING
    if share in (0, 1):
        return f"{100 * share:.0f}%"
    if share < 0.0005:
        return "<0.1%"
    return ">99.9%" if share > 0.9995 else f"{100 * share:.1f}%"


def number(value: float | None) -> str:
    """Write a number with two decimals, a dash where there is none."""
    return MISSING if value is None else f"{value:.2f}"


def short_name(reference: str) -> str:
    """Return what a tokenizer is called in a heading: the last part of its name or path."""
    return reference.removeprefix("package:").rstrip("/").rsplit("/", 1)[-1] or reference
