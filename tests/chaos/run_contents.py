"""What a run has published, in a form in which two runs of the same work are equal: without times and hosts."""

import json
import re
from pathlib import Path
from typing import Any

from logitfuse.storage.checksums import checksum_bytes, checksum_file
from logitfuse.tasks.training.metrics import MEASURED

KEY = re.compile(r"\.[0-9a-f]{20}\b")
RESULTS = ("target", "sources", "corpus", "results", "gains", "fusion", "alignment", "headroom", "fingerprints")
# What a run writes for people or for itself, whose content is times, process ids and paths.
OF_THE_MOMENT = ("journal.", "worker.", "accelerate.")


def published(folder: Path) -> dict[str, str]:
    """Return a checksum of every file of a run folder by its name; the report counts times, so its numbers alone do."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name.startswith(".locks/") or path.name.startswith(OF_THE_MOMENT) or "report" in name:
            continue
        found[name] = _content(path)
    return found


def scratch(folder: Path) -> list[str]:
    """Return what killed writers left behind."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob(".scratch-*")]


def results(folder: Path) -> dict[str, Any]:
    """Return the report's numbers that are no times."""
    report = json.loads((folder / "report.json").read_text())
    return {name: value for name, value in report.items() if name in RESULTS}


def _content(path: Path) -> str:
    if path.name.startswith("metrics.") and path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]
        return checksum_bytes(json.dumps(kept).encode())
    if path.suffix == ".json" and KEY.search(path.name) and (record := _record(path)) is not None:
        return checksum_bytes(json.dumps(record).encode())
    return checksum_file(path)


def _record(path: Path) -> dict[str, Any] | None:
    content = json.loads(path.read_text())
    inner = content.get("record") if isinstance(content, dict) else None
    if inner is None:
        return None
    return {name: value for name, value in inner.items() if name != "made"}
