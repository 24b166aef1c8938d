"""One writer per result: a lock that dies with its process."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from logitfuse.storage.errors import BadInput


@contextmanager
def only_one(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path`, waiting while another process holds it.

    The kernel releases an flock when its process dies, so no lock outlives a crash. `waiting` is told once who
    holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open_own(path, os.O_RDWR | os.O_CREAT)
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


def open_own(path: Path | str, flags: int) -> int:
    """Open a file of a run folder to write to, never through a link: the folder may come from others.

    Raises `BadInput` where there is a link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise BadInput(f"{path}: it is a link, which nothing is written through. Remove it: rm {path}") from None


def _holder(handle: int) -> str:
    try:
        held = json.loads(os.pread(handle, 4096, 0))
        return f"process {held['pid']} on {held['host']}"
    except (ValueError, KeyError):
        return "another process"
