"""Files and folders that are either there whole or not there at all (local disk)."""

import errno
import glob
import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from logitfuse.storage.errors import SystemRefused

SCRATCH_PREFIX = ".scratch-"
SCRATCH = re.compile(r"\.scratch-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}-")  # whose processes these are, process id
OLD = 7 * 86400.0  # seconds after which nobody is believed to be still writing
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path`; move it into place only if the block succeeds."""
    scratch = _scratch_beside(path)
    try:
        yield scratch
        flush(scratch)
        os.replace(scratch, path)
        flush(path.parent)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `path`; rename it into place only if the block succeeds.

    A folder that already stands at `path` is moved aside first and removed afterwards.
    """
    scratch = _scratch_beside(path)
    scratch.mkdir()
    try:
        yield scratch
        for file in sorted(scratch.rglob("*")):
            flush(file)
        flush(scratch)
        if path.exists():
            aside = _scratch_beside(path)
            os.replace(path, aside)
            shutil.rmtree(aside, ignore_errors=True)
        os.replace(scratch, path)
        flush(path.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def remove_whole(path: Path) -> None:
    """Remove a file or a link if it is there, or a folder, which goes aside at once: no part of it stays as if whole.

    A link is removed itself, not what it leads to.
    """
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    aside = _scratch_beside(path)  # swept by the next run here, should this process be killed
    os.replace(path, aside)
    shutil.rmtree(aside)


def write_exclusively(path: Path, data: bytes) -> bool:
    """Create `path` with `data` unless it already stands; whole or not at all. Return whether we created it."""
    scratch = _scratch_beside(path)
    try:
        scratch.write_bytes(data)
        flush(scratch)
        try:
            os.link(scratch, path)  # unlike a rename, a link never replaces what another process published
        except FileExistsError:
            # A network file system that lost its answer asks again, and is told that there is one: ours.
            if scratch.stat().st_nlink == 1:
                return False
        except OSError as error:
            if error.errno in NO_LINKS:
                raise SystemRefused(
                    f"{path.parent}: its file system has no hard links ({error.strerror}), with which results are "
                    "published once and for all. Choose another execution.folder."
                ) from error
            raise
        flush(path.parent)
        return True
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def remove_scratch(path: Path) -> None:
    """Remove what a killed writer of `path` left beside it; only for who holds the lock on it."""
    if path.parent.is_dir():
        for left in path.parent.glob(f"{SCRATCH_PREFIX}*-{glob.escape(path.name)}"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def sweep_scratch(folder: Path) -> None:
    """Remove what killed writers left in a folder, whatever they wrote.

    Whether a writer lives is known of this machine's own processes; what others left goes once it is a week old.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        if not (left := [entry for entry in entries if entry.name.startswith(SCRATCH_PREFIX)]):
            return
        now = _clock_of(Path(folder))
        for entry in left:
            with suppress(OSError):  # its writer has moved it into place meanwhile
                if _is_dead(entry, now):
                    shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def _clock_of(folder: Path) -> float:
    """Return what time it is where the folder's files get theirs: this machine's clock may be days away from that."""
    scratch = _scratch_beside(folder / "clock")
    scratch.touch()
    try:
        return scratch.stat().st_mtime
    finally:
        scratch.unlink(missing_ok=True)


def _is_dead(entry: os.DirEntry[str], now: float) -> bool:
    found = SCRATCH.match(entry.name)
    if found is None or found[1] != _process_ids():
        return now - entry.stat(follow_symlinks=False).st_mtime > OLD
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False


@cache
def _process_ids() -> str:
    """Name the set of processes among which a process id is unique: those of a boot, or of a container within it."""
    place = [socket.gethostname()]
    for file, read in (("/proc/sys/kernel/random/boot_id", _text), ("/proc/self/ns/pid", os.readlink)):
        with suppress(OSError):
            place.append(read(file))
    return hashlib.sha256("\n".join(place).encode()).hexdigest()[:8]


def _text(file: str) -> str:
    return Path(file).read_text()


def flush(path: Path) -> None:
    """Make the operating system put a file's bytes, or a folder's entries, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # of folders some network file systems cannot do that, and need not
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def _scratch_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{SCRATCH_PREFIX}{_process_ids()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}"
