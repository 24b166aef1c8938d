"""A worker must not outlive the process that started it: an orphan would write beside the next run's worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

PARENT = "LOGITFUSE_PARENT"
SECONDS_BETWEEN_LOOKS = 0.5


def identity(pid: int) -> str:
    """Return `pid:start time`, which no later process can have; raises ProcessLookupError if there is none."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    if after_name[0] in "ZX":
        raise ProcessLookupError(pid)
    return f"{pid}:{after_name[19]}"


def die_with_parent() -> None:
    """Kill this process as soon as the one named in $LOGITFUSE_PARENT, or the launcher between, is gone."""
    expected = os.environ.get(PARENT)
    if not expected:
        return
    launcher = os.getppid()
    _die_unless(lambda: _alive(expected) and os.getppid() == launcher)


def die_with(expected: str) -> None:
    """Kill this process as soon as the one of this `identity` is gone, however many stand between."""
    _die_unless(lambda: _alive(expected))


def _die_unless(holds: Callable[[], bool]) -> None:
    threading.Thread(target=_watch, args=(holds,), daemon=True).start()


def _watch(holds: Callable[[], bool]) -> None:
    while holds():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)


def _alive(expected: str) -> bool:
    try:
        return identity(int(expected.partition(":")[0])) == expected
    except ProcessLookupError:
        return False
