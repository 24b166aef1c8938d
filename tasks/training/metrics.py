"""metrics.jsonl: one JSON line for each step, no step twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from logitfuse.storage.atomic import replacing


class MetricsFile:
    """Appends lines to a metrics file after cutting off all steps that a resumed run will do again."""

    def __init__(self, path: Path, done: int) -> None:
        """Keep the lines of steps 1 to `done`; a last line that was never finished is dropped as well."""
        with replacing(path) as scratch:
            scratch.write_text("".join(json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= done))
        self._path = path

    def write(self, line: dict[str, Any]) -> None:
        """Append one step's numbers."""
        with self._path.open("a") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, none if there is none; an unfinished last line is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]
