"""What is fetched or converted once must be made whole, and by one process, whoever else asks at the same time."""

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.atomic import SCRATCH_PREFIX, replacing_folder
from logitfuse.storage.errors import BadInput


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path` (an empty file beside it); wait while another process holds it.

    The operating system lets go when the holder ends, however it ends, so no lock is ever left over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_folder_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Return `folder`; if it is not there yet, let `fill` write it into a scratch folder and move that into place."""
    if folder.exists():
        return folder
    with exclusive(folder):
        for stale in folder.parent.glob(f"{SCRATCH_PREFIX}*-{folder.name}"):  # of a killed run: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        if not folder.exists():
            with replacing_folder(folder) as scratch:
                fill(scratch)
    return folder


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise BadInput that names the closest known name, unless `name` is one."""
    names = sorted(known)
    if name in names:
        return
    which = known_names(name.lower(), names, called="There are", cutoff=0.3)
    raise BadInput(f"no packaged {kind} is called '{name}'. {which}")
