"""The locked split: every look at it is written down before it happens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from logitfuse.storage.atomic import write_exclusively
from logitfuse.storage.errors import ShardCorrupt
from logitfuse.storage.keys import canonical_json
from logitfuse.tasks.reporting.formats import moment

Look = dict[str, Any]
FOLDER = "looks"


def fingerprint(contrasts: list[dict[str, Any]], keys: Iterable[str]) -> str:
    """Return what a look is known by: what is compared, and the keys of all evaluations, which tell everything."""
    return hashlib.sha256(canonical_json([contrasts, sorted(keys)])).hexdigest()[:20]


def note_look(folder: Path, found: str, facts: dict[str, Any]) -> list[Look]:
    """Write down that the locked split is looked at, once for the same models and contrasts; return all looks.

    Call it before anything is evaluated: a look that is broken off was one, too.
    """
    looks = read_looks(folder)
    if all(look["fingerprint"] != found for look in looks):
        look = {"fingerprint": found, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        write_exclusively(folder / FOLDER / f"{found}.json", canonical_json(look) + b"\n")
        looks = read_looks(folder)
    return looks


def read_looks(folder: Path) -> list[Look]:
    """Return all looks there were, the first one first."""
    found = []
    for path in (folder / FOLDER).glob("*.json"):
        try:
            look = json.loads(path.read_bytes())
            if not all(isinstance(look[name], str) for name in ("time", "fingerprint")):
                raise ValueError("it tells no time, or not what was looked at")
            moment(look["time"])  # refuses what is none
            found.append(look)
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise ShardCorrupt(
                f"{path}: this record of a look at the locked split is damaged: {error}. Restore it; do not delete it, "
                "or it would seem that nobody looked."
            ) from error
    return sorted(found, key=lambda look: (look["time"], look["fingerprint"]))


def caution(looks: list[Look], split: str) -> str | None:
    """Say how often the locked split was looked at with other models or contrasts; None for once."""
    if len(looks) < 2:
        return None
    times = ", ".join(moment(look["time"]) for look in looks)
    return (
        f"The {split} split was looked at {len(looks)} times with different models or contrasts ({times}). Only the "
        "first look is a test; what was changed after it may fit this very text."
    )
