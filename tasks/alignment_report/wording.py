"""What the terminal and the page call things, and how they write shares."""

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
MISSING = "–"


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
