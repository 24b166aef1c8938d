"""What becomes of the runs of a server, as lines for a terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

SHOWN = ("Running", "Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "Late", "Cached", "Paused")
NEWEST = 30
SECONDS_UNTIL_REPEATED = 300.0
_BEGINS = re.compile(r"\d\d:\d\d:\d\d\.\d+ \| |[A-Z]+: ")  # lines of Prefect's and of uvicorn's log, not of tracebacks
_SERIOUS = re.compile(r"\| (ERROR|CRITICAL) |(ERROR|CRITICAL): ")
_LOCKED = "SQLite was locked for a moment, as happens under load; PostgreSQL is not: see --database-url"


def page_of(deployment: str, pages: str) -> str:
    """Return the page of a deployment, `flow/name`; the list of all of them where it cannot be found."""
    try:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return f"{pages}/deployments/deployment/{client.read_deployment_by_name(deployment).id}"
    except Exception:  # nothing that could stop an `up` that is up
        return f"{pages}/deployments"


class RunWatch:
    """Looks at the newest runs of the API in $PREFECT_API_URL and says which states are new."""

    def __init__(self, pages: str) -> None:
        self._pages = pages
        self._seen: dict[object, object] | None = None

    def news(self) -> list[str]:
        """Return a line for each run of its own (no part of another) whose state changed since the last call.

        What stood there before the first call is no news. A server that does not answer has none.
        """
        try:
            runs = self._newest()
        except Exception:  # it is starting again, or its database is: the next call asks again
            return []
        known, self._seen = self._seen, {run.id: run.state_id for run in runs}
        if known is None:
            return []
        return [_line(run, self._pages) for run in reversed(runs) if known.get(run.id) != run.state_id and _shown(run)]

    def _newest(self) -> list[FlowRun]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterExpectedStartTime,
            FlowRunFilterParentTaskRunId,
        )
        from prefect.client.schemas.sorting import FlowRunSort

        wanted = FlowRunFilter(
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),  # not a schedule's to come
        )
        with get_client(sync_client=True) as client:
            return client.read_flow_runs(
                flow_run_filter=wanted, limit=NEWEST, sort=FlowRunSort.EXPECTED_START_TIME_DESC
            )


def _shown(run: FlowRun) -> bool:
    return run.state is not None and run.state.name in SHOWN


def _line(run: FlowRun, pages: str) -> str:
    assert run.state is not None
    message = f": {run.state.message}" if run.state.message and not run.state.is_running() else ""
    page = f"  {pages}/runs/flow-run/{run.id}" if run.state.name in ("Failed", "Crashed") else ""
    return f"{run.name} {(run.state.name or '').lower()}{message}{page}"


class Serious:
    """Picks the lines of a log that a person should see, and each only once in five minutes."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def among(self, lines: Iterable[str]) -> list[str]:
        """Return errors, shortened; not their tracebacks, which are in the log."""
        return [line for line in map(_shortened, _entries(lines)) if line and self._is_new(line)]

    def _is_new(self, line: str) -> bool:
        text, now = re.sub(r"[\d:.]+|[0-9a-f-]{36}", "#", line), time.monotonic()
        new = now - self._said.get(text, float("-inf")) > SECONDS_UNTIL_REPEATED
        if new:
            self._said[text] = now
        return new


def _entries(lines: Iterable[str]) -> list[str]:
    """Join each line of a log with the traceback that follows it."""
    found: list[str] = []
    for line in lines:
        if found and not _BEGINS.match(line):
            found[-1] += "\n" + line
        else:
            found.append(line)
    return found


def _shortened(entry: str) -> str:
    if not _SERIOUS.search(entry.partition("\n")[0]):
        return ""
    return _LOCKED if "database is locked" in entry else entry.partition("\n")[0][:300]
