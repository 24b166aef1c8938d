"""One writer per result: a lock that dies with its process."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_one(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path`, waiting while another process holds it.

    The kernel releases an flock when its process dies, so no lock outlives a crash. `waiting` is told once who
    holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never through a link: what it leads to would be emptied.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting(f"{path.stem}: waiting for {_holder(handle)}, which is doing it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        held = json.loads(os.pread(handle, 4096, 0))
        return f"process {held['pid']} on {held['host']}"
    except (ValueError, KeyError):
        return "another process"
