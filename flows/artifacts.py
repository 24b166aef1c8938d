"""What Prefect's UI shows of a stage: a table of what was made, and how far it and its long tasks are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from logitfuse.flows.pace import Standing
from logitfuse.flows.repeating import repeating
from logitfuse.flows.stage_progress import StageProgress
from logitfuse.tasks.engine import Outcome
from logitfuse.tasks.unit import Unit

SECONDS_BETWEEN_UPDATES = 10.0
PATIENCE = 5.0  # seconds that a stage waits at its end for a server that does not answer
ALL = "all"  # the row of a stage that has no sources
UNITS = {"done": 0, "skipped": 0, "failed": 0}  # columns of every row; a unit that stood before is skipped
Warn = Callable[[str], None]


class ProgressArtifacts:
    """A bar in the UI for a stage and one for each of its units at work; what is short costs nothing.

    They are sent from a thread of their own, so that a slow server does not hold up the work; what the server cannot
    take is left out and warned of once. A bar that is not at its end when its stage or unit ends has failed.
    """

    def __init__(self, name: str, progress: StageProgress, warn: Warn) -> None:
        """Show `progress` of the run called `name`."""
        self._name, self._progress, self._warn = name, progress, warn
        self._contexts: dict[Unit, Context] = {}
        self._made: dict[Unit | None, UUID] = {}
        self._sent: dict[Unit | None, tuple[float, str]] = {}
        self._warned = False

    def follow(self, unit: Unit) -> None:
        """Give a unit a bar if it takes long; called by its task, to which the bar will belong."""
        self._contexts[unit] = copy_context()

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Keep the bars up to date while the block runs."""
        with repeating(SECONDS_BETWEEN_UPDATES, self.update, self.close, patience=PATIENCE):
            yield

    def update(self) -> None:
        """Send what has changed: the stage's bar, and those of units that have been at work for long."""
        self._send(None, self._progress.standing(), self._described())
        for unit, seconds in self._progress.at_work().items():
            if unit in self._contexts and seconds >= SECONDS_BETWEEN_UPDATES:
                self._send_unit(unit)
        self._close_units()

    def close(self) -> None:
        """Send how everything ended that has a bar."""
        if None in self._made:
            self._send(None, self._progress.standing(), self._described())
        self._close_units()

    def _close_units(self) -> None:
        """Send how units ended, and forget them."""
        followed = list(self._contexts)  # before who is at work: a unit is followed once it is
        at_work = self._progress.at_work()
        for unit in (unit for unit in followed if unit not in at_work):
            if unit in self._made:
                self._send_unit(unit)
                del self._made[unit], self._sent[unit]
            del self._contexts[unit]

    def _send_unit(self, unit: Unit) -> None:
        standing = self._progress.unit_standing(unit)
        self._contexts[unit].run(self._send, unit, standing, f"{unit}: {standing}")

    def _described(self) -> str:
        lines = [f"**{self._progress.stage}**: {self._progress.standing()}", ""]
        lines += [f"- {source}: {self._progress.standing(source)}" for source in self._progress.sources]
        return "\n".join(lines).strip()

    def _send(self, unit: Unit | None, standing: Standing, text: str) -> None:
        percent = standing.percent or 0.0
        if self._sent.get(unit) == (percent, text):
            return
        try:
            if unit in self._made:
                update_progress_artifact(self._made[unit], percent, text)
            else:
                made = create_progress_artifact(percent, key=self._key(unit), description=text)
                assert isinstance(made, UUID)  # a coroutine only where an event loop runs
                self._made[unit] = made
            self._sent[unit] = (percent, text)
        except Exception as error:  # the server's trouble is not the work's
            if not self._warned:
                self._warn(f"progress cannot be shown: {type(error).__name__}: {error}. The work goes on.")
            self._warned = True

    def _key(self, unit: Unit | None) -> str:
        if unit is not None:
            return artifact_key(self._name, unit.stage, unit.source, unit.shard)
        chosen = {unit.source for unit in self._progress.units}
        only = chosen.pop() if len(chosen) == 1 else None  # several machines may do a source each
        return artifact_key(self._name, self._progress.stage, only, "progress")


def artifact_key(*parts: str | int | None) -> str:
    """Return a key as Prefect wants it: lower-case letters, digits and dashes."""
    text = "-".join(str(part) for part in parts if part is not None).lower()
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text).strip("-")


def publish_table(key: str, rows: list[dict[str, Any]], summary: str, warn: Warn) -> None:
    """Publish what became of a stage's units; a server that cannot take it is warned of."""
    try:
        create_table_artifact(rows, key=key, description=summary)
    except Exception as error:
        warn(f"the stage's table cannot be shown: {type(error).__name__}: {error}. The work is done.")


def table_rows(
    outcomes: dict[Unit, Outcome], failed: Iterable[Unit], progress: StageProgress | None = None
) -> list[dict[str, Any]]:
    """Return one row per source: units done, skipped and failed, and the sums of what their records count.

    With `progress` also what was made now, and how much of it per second.
    """
    rows: dict[str, dict[str, Any]] = {}
    for unit, outcome in outcomes.items():
        row = _row(rows, unit)
        row["skipped" if outcome.state == "kept" else outcome.state] += 1
        row["seconds"] = round(row["seconds"] + outcome.seconds, 1)
        for name, count in outcome.record.counts.items():
            if isinstance(count, int) and not isinstance(count, bool):
                column = _column(name)
                row[column] = row.get(column, 0) + count
    for unit in failed:
        _row(rows, unit)["failed"] += 1
    if progress is not None:
        for source, row in rows.items():
            row |= _speed(progress, None if source == ALL else source)
    return list(rows.values())


def _speed(progress: StageProgress, source: str | None) -> dict[str, Any]:
    made = progress.made(source)
    if made is None:
        return {}
    return {
        f"{made.measure} made now": round(made.amount),
        f"{made.measure} per second": float(f"{made.per_second:.4g}"),
    }


def _column(count: str) -> str:
    """Call a record's count so that it is not taken for a count of units."""
    name = count.replace("_", " ")
    return f"{name} in all" if name in UNITS else name


def _row(rows: dict[str, dict[str, Any]], unit: Unit) -> dict[str, Any]:
    source = unit.source or ALL
    return rows.setdefault(source, {"source": source, **UNITS, "seconds": 0.0})
