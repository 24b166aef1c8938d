"""Names and texts that users and corpora gave, inside Markdown: shown as they are, and never taken for markup."""

import re

SPECIAL = "\\`*_[]|#"


def plain(text: str) -> str:
    """Return a text on one line that Markdown shows as it is: neither its own signs nor HTML in it mean anything."""
    line = " ".join(text.splitlines())
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in SPECIAL else character for character in escaped)


def no_markup(text: str) -> str:
    """Return a line of Markdown of our own with names of others in it: no HTML, link, picture or row begins in it."""
    line = " ".join(text.splitlines())
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("](", "]\\(")):
        line = line.replace(sign, instead)
    return line


def fenced(text: str, language: str) -> str:
    """Return a text as a block of code that nothing in it can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
