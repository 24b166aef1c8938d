"""A process that kills itself at a chosen moment of its own file operations: SIGKILL, as a crash or the kernel would.

Python tells of files opened, renamed, linked and removed through audit events, so nothing of the product is changed or
has to be asked. Operations inside libraries (a Parquet file's bytes) are met by killing some milliseconds later.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# What makes a result appear or go counts more: there a crash hurts most.
WEIGHTS = {"open": 1, "os.mkdir": 1, "os.remove": 2, "os.rmdir": 2, "os.truncate": 2, "os.rename": 4, "os.link": 4}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
VARIABLE = "KILLED_IN_TRAINING"


class Moment(NamedTuple):
    """When a process is to die: at a change of files below a folder, and so many seconds later."""

    folder: str
    at: int  # the first change that makes their weights add up to this
    later: float
    notes: str  # a file that gets a line with what it was about to do


def arm(moment: Moment) -> Callable[[], int]:
    """Kill this process at that moment; return what weighs the changes so far."""
    notes = os.open(moment.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if not changes(event, arguments, moment.folder):
            return
        before, seen = seen, seen + WEIGHTS[event]
        if before < moment.at <= seen:
            os.write(notes, f"{event} {arguments[0]}\n".encode())
            _die(moment.later)

    sys.addaudithook(hook)
    return lambda: seen


def changes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event tells of a change of files below a folder."""
    if event not in WEIGHTS or isinstance(arguments[0], int):  # an open file's number
        return False
    path = os.fsdecode(arguments[0])
    if not path.startswith(folder):
        return False
    # Scratch that is opened to be read is about to be flushed to the disk.
    return event != "open" or bool((arguments[2] or 0) & WRITING) or ".scratch-" in path


def _die(later: float) -> None:
    if not later:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=lambda: (time.sleep(later), os.kill(os.getpid(), signal.SIGKILL)), daemon=True).start()


def arm_from_environment() -> None:
    """Arm a process that was started with its moment in the environment."""
    if VARIABLE in os.environ:
        folder, at, later, notes = os.environ[VARIABLE].split("|")
        arm(Moment(folder, int(at), float(later), notes))
