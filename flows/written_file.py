"""Files that a command writes where the user says: told of when written, refused in plain words where that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from logitfuse.flows.show import console
from logitfuse.storage.errors import BadInput


def write_json(path: Path, facts: dict[str, Any], said: Console = console) -> None:
    """Write facts as JSON; raise `BadInput` where that cannot be done."""
    write_text(path, as_json(facts), said)


def as_json(facts: Any) -> str:
    """Return facts as JSON text in ASCII: it can be printed anywhere, and holds no control character."""
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"


def write_text(path: Path, content: str, said: Console = console) -> None:
    """Write a text file; raise `BadInput` where that cannot be done."""
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    said.print(f"Written: {path}", soft_wrap=True, highlight=False, markup=False)


def unwritable(path: Path, error: OSError) -> BadInput:
    """Return what to raise for a file that cannot be written."""
    return BadInput(f"{path} cannot be written: {error.strerror}. Give a file in a folder that exists.")
