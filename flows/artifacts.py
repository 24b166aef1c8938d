"""What Prefect's UI shows of a stage: a table of what was made, and the progress of long tasks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from logitfuse.tasks.engine import Outcome
from logitfuse.tasks.unit import Unit

SECONDS_BETWEEN_UPDATES = 5.0


class ProgressArtifact:
    """A bar in the UI for a task that takes longer than a few seconds; shorter tasks cost nothing."""

    def __init__(self, key: str, description: str) -> None:
        self._key, self._description = key, description
        self._id: UUID | None = None
        self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show progress; a report that comes too soon after the last one is dropped."""
        now = time.monotonic()
        if not total or now - self._shown < SECONDS_BETWEEN_UPDATES:
            return
        self._shown = now
        self._show(100.0 * min(done, total) / total)

    def close(self) -> None:
        """Fill the bar, if there is one."""
        if self._id is not None:
            self._show(100.0)

    def _show(self, percent: float) -> None:
        if self._id is None:
            made = create_progress_artifact(percent, key=self._key, description=self._description)
            self._id = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._id, percent)


def artifact_key(*parts: str | int | None) -> str:
    """Return a key as Prefect wants it: lower-case letters, digits and dashes."""
    text = "-".join(str(part) for part in parts if part is not None).lower()
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text).strip("-")


def publish_table(key: str, outcomes: dict[Unit, Outcome], failed: Iterable[Unit], summary: str) -> None:
    """Publish what became of a stage's units, a row per source."""
    create_table_artifact(table_rows(outcomes, failed), key=key, description=summary)


def table_rows(outcomes: dict[Unit, Outcome], failed: Iterable[Unit]) -> list[dict[str, Any]]:
    """Return one row per source: units done, kept and failed, and the sums of what their records count."""
    rows: dict[str, dict[str, Any]] = {}
    for unit, outcome in outcomes.items():
        row = _row(rows, unit)
        row[outcome.state] += 1
        row["seconds"] = round(row["seconds"] + outcome.seconds, 1)
        for name, count in outcome.record.counts.items():
            if isinstance(count, int) and not isinstance(count, bool):
                row[name] = row.get(name, 0) + count
    for unit in failed:
        _row(rows, unit)["failed"] += 1
    return list(rows.values())


def _row(rows: dict[str, dict[str, Any]], unit: Unit) -> dict[str, Any]:
    source = unit.source or "all"
    return rows.setdefault(source, {"source": source, "done": 0, "kept": 0, "failed": 0, "seconds": 0.0})
