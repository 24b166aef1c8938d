"""One JSON file for the results of several studies, from which the page is made; `primary` is the locked contrast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from logitfuse.storage.atomic import replacing
from logitfuse.storage.errors import BadInput

FORMAT = 1
MOST_NAME = 200  # bytes


def read_results(path: Path) -> dict[str, Any]:
    """Return what a file of results holds, an empty one where there is no file; raises `BadInput`."""
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path}: this is no file. Give the one that `logitfuse study --json` wrote.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"format": FORMAT, "primary": None, "studies": {}}
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: no file of results: {error}. Give another file, or remove this one.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or "studies" not in content:
        raise BadInput(f"{path}: not made by `logitfuse study --json`. Give another file, or remove this one.")
    _check_studies(content["studies"], path)
    return content


def _check_studies(studies: Any, path: Path) -> None:
    """Refuse what `add_study` and the names of plots cannot be made of; of the numbers the page says what is wrong."""
    for name, facts in studies.items() if isinstance(studies, dict) else [("", None)]:
        locked = facts.get("locked") if isinstance(facts, dict) else None
        sound = isinstance(facts, dict) and facts.get("study") == name and _is_plain(name)
        if not sound or not (locked is None or (isinstance(locked, dict) and "primary" in locked)):
            raise BadInput(
                f"{path}: its study {name[:80]!r} is not as `logitfuse study --json` writes it. Take it out of the "
                "file, or remove the file, and run the study again."
            )


def _is_plain(name: str) -> bool:
    """Whether files that begin with a study's name lie where they should."""
    return name.isprintable() and "/" not in name and 0 < len(name.encode("utf-8", "replace")) <= MOST_NAME


def add_study(path: Path, facts: dict[str, Any]) -> None:
    """Put a study's results into the file, in the place of what it held of that study; the others stay.

    `primary` is that of the first study in the file whose locked split was looked at, None without one.
    """
    content = read_results(path)
    content["studies"][facts["study"]] = facts
    locked = [study["locked"]["primary"] for study in content["studies"].values() if study.get("locked")]
    content["primary"] = locked[0] if locked else None
    # A line per value, for comparing versions; a grid of hundreds would grow by a third if they were indented.
    text = json.dumps(content, indent=0, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        with replacing(path) as scratch:
            scratch.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}. Give a file in a folder that exists.") from error
