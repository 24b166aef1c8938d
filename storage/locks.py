"""One writer per result: a lock that dies with its process."""

import errno
import fcntl
import json
import os
import shlex
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from logitfuse.storage.errors import BadInput, SystemRefused

NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@contextmanager
def only_one(path: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path`, waiting while another process holds it.

    The kernel releases an flock when its process dies, so no lock outlives a crash. `say` is told once who holds it;
    and if another host took it and did not give it back, that this process goes on in its place. Raises
    `SystemRefused` where the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        if not _taken(handle, path, fcntl.LOCK_NB):
            if say:
                say(f"{path.stem}: waiting for {_called(_holder(handle))}, which is doing it")
            _taken(handle, path, 0)
        left = _holder(handle)
        if say and left.get("host", socket.gethostname()) != socket.gethostname():
            say(
                f"{path.stem}: {_called(left)} began it and did not end it; this process goes on. Should that one be "
                "at work still, then locks in this file system hold on one host only: end one of them"
            )
        _note(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        yield
        _note(handle, b"")
    finally:
        os.close(handle)


@contextmanager
def unless_held(paths: Iterable[Path]) -> Iterator[None]:
    """Hold lock files that are there for the block, without waiting.

    Raises `BadInput` where a process holds one of them, `SystemRefused` where the file system has no locks.
    """
    with ExitStack() as handles:
        for path in paths:
            handle = open_own(path, os.O_RDWR)
            handles.callback(os.close, handle)
            if not _taken(handle, path, fcntl.LOCK_NB):
                raise BadInput(f"{path.stem}: {_called(_holder(handle))} is at work on it.")
        yield


def open_own(path: Path | str, flags: int) -> int:
    """Open a file of a run folder to write to, never through a link: the folder may come from others.

    Raises `BadInput` where there is a link.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)  # nor does a pipe hold it up
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise BadInput(
            f"{path}: it is a link, which nothing is written through. Remove it: rm {shlex.quote(str(path))}"
        ) from None


def _taken(handle: int, path: Path, wait: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | wait)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise SystemRefused(
            f"{path.parent}: its file system has no locks ({error.strerror}), so two processes could write the same "
            "result. Mount it with them (NFS: version 4, or a running lockd; Lustre: -o flock), or choose another "
            "execution.folder."
        ) from error
    return True


def _note(handle: int, content: bytes) -> None:
    with suppress(OSError):  # who holds it is for people to read; on a full disk the lock itself holds all the same
        os.truncate(handle, 0)
        os.pwrite(handle, content, 0)


def _holder(handle: int) -> dict[str, object]:
    try:
        held = json.loads(os.pread(handle, 4096, 0))
        return {"host": held["host"], "pid": held["pid"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _called(holder: dict[str, object]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if holder else "another process"
