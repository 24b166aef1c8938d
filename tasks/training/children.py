"""Finding and ending all processes of a run, also those whose launcher put them into a session of their own."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

RUN_MARK = "LOGITFUSE_TRAINING"
SECONDS_BETWEEN_LOOKS = 0.1


def processes_with(variable: str, value: str) -> set[int]:
    """Return the living processes that were started with an environment variable set to a value."""
    wanted = f"{variable}={value}".encode()
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            # Gone in the meantime, or somebody else's. A zombie's environment is empty.
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
    return found


def end_processes(mark: str, launcher: int, grace_seconds: float) -> None:
    """Ask every process of a run to stop, and kill what is left after `grace_seconds`; return when none is left.

    Workers are asked before their launcher: they have to save, and would die with it.
    """
    deadline = time.monotonic() + grace_seconds
    asked: set[int] = set()
    while members := processes_with(RUN_MARK, mark):
        late = time.monotonic() >= deadline
        for pid in members if late else (members - {launcher} or members) - asked:
            asked.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(SECONDS_BETWEEN_LOOKS)
