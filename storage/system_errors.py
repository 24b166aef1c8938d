"""What an operating system says about files, in words that say what to do."""

from __future__ import annotations

import errno
import os
import re
import resource
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logitfuse.storage.errors import LogitfuseError, OutOfSpace, ShardMissing, StoreFailed, SystemRefused

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
OBSTRUCTED = frozenset({errno.EISDIR, errno.EEXIST, errno.ENOTDIR, errno.ELOOP})
HANDLES = frozenset({errno.EMFILE, errno.ENFILE})
FAILED = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN, errno.EHOSTDOWN,
                    errno.EHOSTUNREACH, errno.ECONNRESET, errno.ENODEV, errno.ENXIO})  # fmt: skip
# Libraries that write files themselves (safetensors, tokenizers, Arrow) raise errors of their own kinds.
NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
ARROWS_FILE = re.compile(r"local file '([^']+)'")
MEMORY = ("DefaultCPUAllocator", "std::bad_alloc", "CUDA out of memory", "Cannot allocate memory",
          "can't start new thread", "Failed to launch worker thread")  # fmt: skip
STAYS = "What was finished stays."
AGAIN = "run the same command again"


@contextmanager
def in_words(what: str, root: Path) -> Iterator[None]:
    """Let what the operating system refuses in the block, which makes `what` below `root`, be raised in words."""
    try:
        yield
    except Exception as error:
        if told := explained(error, what, root):
            raise told from error
        raise


def explained(error: BaseException, what: str = "", root: Path | None = None) -> LogitfuseError | None:
    """Return in words what the operating system said; None if it did not, or if it is an error of our own."""
    number = None if isinstance(error, LogitfuseError) else errno_of(error)
    begin, place = f"{what}: " if what else "", root or _folder(error)
    if number in FULL:
        return OutOfSpace(f"{begin}{_full(number, place)} {STAYS} Make room, or move the run folder, and {AGAIN}.")
    if number in HANDLES:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        advice = f"Allow more (ulimit -n 4096; it is {limit} now) or lower execution.workers"
        return SystemRefused(f"{begin}too many files are open at once. {STAYS} {advice}, and {AGAIN}.")
    if number in REFUSED:
        refused = getattr(error, "filename", None) or place
        advice = f"See that {place} is mounted for writing and belongs to this user, or choose another folder"
        return SystemRefused(f"{begin}{refused}: {os.strerror(number)}. {STAYS} {advice}; then {AGAIN}.")
    if number in OBSTRUCTED and (obstacle := _obstacle(error)):
        advice = f"Remove it (rm -r {shlex.quote(str(obstacle))}), or choose another folder"
        return SystemRefused(f"{begin}{obstacle} is in the way: {os.strerror(number)}. {STAYS} {advice}; then {AGAIN}.")
    if number in GONE and root and (gone := _gone(error)) and place in gone.parents:
        advice = "If another process makes it again (--redo) or gives it another form (convert), wait for that"
        return ShardMissing(f"{begin}{gone} went away. {advice}. {STAYS} Then {AGAIN}.")
    if number in FAILED:
        advice = "A network file system may have been away for a while, else the disk is failing (dmesg tells)"
        return StoreFailed(f"{begin}{place} failed: {os.strerror(number)}. {STAYS} {advice}; {AGAIN}.")
    return None


def out_of_memory(error: BaseException) -> OutOfSpace | None:
    """Return in words that memory is full; None if that is not what the error is about."""
    if not isinstance(error, MemoryError) and not any(words in str(error) for words in MEMORY):
        return None
    advice = "Lower capture.tokens_per_batch, execution.workers or corpus.documents_per_shard, or use a larger machine"
    return OutOfSpace(f"memory is full. {STAYS} {advice}, and {AGAIN}. ({(str(error) or repr(error)).splitlines()[0]})")


def errno_of(error: BaseException) -> int | None:
    """Return the operating system's number of an error, also where a library wrapped it; None if it has none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = NUMBER.search(str(error))
    return int(found[1]) if found else None


def _full(number: int, place: Path) -> str:
    if number == errno.EDQUOT:
        return f"the quota on the disk of {place} is used up."
    if number == errno.EFBIG:
        return f"a file is larger than the disk of {place}, or ulimit -f, allows."
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(place).free / 1e9:.1f} GB free)"
    return f"the disk of {place} is full{free}."


def _gone(error: BaseException) -> Path | None:
    """Return the file that was not found; Arrow names it in its sentence only."""
    name = getattr(error, "filename", None)
    if name is None and (found := ARROWS_FILE.search(str(error))):
        name = found[1]
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _obstacle(error: BaseException) -> Path | None:
    """Return what lies where a file or folder belongs, such as a folder in the place of a shard."""
    for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
        if isinstance(name, str | bytes) and os.path.lexists(path := Path(os.fsdecode(name))):
            return path
    above = [] if not isinstance(name, str | bytes) else Path(os.fsdecode(name)).parents
    return next((path for path in above if os.path.lexists(path) and not path.is_dir()), None)


def _folder(error: BaseException) -> Path:
    """Return where it happened as far as the error says so."""
    name = getattr(error, "filename", None)
    return Path(os.fsdecode(name)).parent if isinstance(name, str | bytes) else Path.cwd()
