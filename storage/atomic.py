"""Files and folders that are either there whole or not there at all (local disk)."""

import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SCRATCH_PREFIX = ".scratch-"


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


def write_exclusively(path: Path, data: bytes) -> bool:
    """Create `path` with `data` unless it already stands; whole or not at all. Return whether we created it."""
    scratch = _scratch_beside(path)
    try:
        scratch.write_bytes(data)
        flush(scratch)
        try:
            os.link(scratch, path)  # unlike a rename, a link never replaces what another process published
        except FileExistsError:
            return False
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


def flush(path: Path) -> None:
    """Make the operating system put a file's bytes, or a folder's entries, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _scratch_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{SCRATCH_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}"
