"""Where a run's results lie, behind one interface with one contract.

The contract: a result's files come first, whole; its record comes last and is created only if absent. Whoever sees a
record may read the files. Nothing is ever half-written under its final name, and no shared file is rewritten.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from logitfuse.storage.atomic import SCRATCH_PREFIX, remove_scratch, replacing, replacing_folder, write_exclusively
from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.records import Record, StoredFile, to_bytes
from logitfuse.storage.under_key import UnderKey, by_key, remove_all, sizes_in

if TYPE_CHECKING:
    from logitfuse.storage.newest import NewestFolder


class Store(Protocol):
    """A folder of results; names are relative, with `/` between folders."""

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """Yield a local scratch path; publish it whole under `name` if the block succeeds."""

    def writing_folder(self, name: str) -> AbstractContextManager[Path]:
        """The same for a folder of files."""

    def create(self, name: str, data: bytes) -> bool:
        """Create a small file only if absent, at once and whole; return whether it was created."""

    def remove(self, name: str) -> None:
        """Remove a small file if it is there."""

    def publish(self, record: Record) -> Record:
        """Let a result whose files are written be seen, once and for all; return the record that stands.

        That is another one where another machine was first and its files are whole; this one's are then removed.
        """

    def unsent(self, path: str) -> Record | None:
        """Return the record of a result that this machine made whole and nobody else can see yet."""

    def send(self, record: Record) -> Record:
        """Publish what `unsent` returned."""

    def discard(self, record: Record) -> None:
        """Remove a result: its record first, so that nobody who sees a record misses a file."""

    def under_keys(self, folder: str) -> list[UnderKey]:
        """Return what lies in a folder (not below it) under keys; nothing of one that is reached by a link."""

    def remove_under_key(self, found: UnderKey) -> None:
        """Remove what `under_keys` returned, its record first."""

    def clear_scratch(self, name: str) -> None:
        """Remove what a killed writer of `name` left; only for who holds the lock on it."""

    def read(self, name: str) -> bytes:
        """Return a small file's bytes; raise FileNotFoundError."""

    def size(self, record: Record, file: StoredFile) -> int | None:
        """Return the bytes of a result's published file, None if it is not there."""

    def checksum(self, record: Record, file: StoredFile) -> str:
        """Checksum a result's published file as it lies there now; raise FileNotFoundError."""

    def file(self, record: Record, file: StoredFile) -> Path:
        """Return a local path with the bytes of a result's file; raise FileNotFoundError."""

    def folder(self, record: Record) -> Path:
        """Return a local folder with all files of a result that is a folder; raise FileNotFoundError."""

    def local(self, name: str) -> Path:
        """Return where this machine keeps what is no result: locks, checkpoints, logs."""

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the sorted names of published files in a folder (not below it) that end with `suffix`."""

    def folders(self) -> list[str]:
        """Return all folders that may hold records, one or two deep."""

    def is_empty(self) -> bool:
        """Return whether nothing lies there."""

    def removal(self, name: str) -> str:
        """Return the command with which a user removes a small file."""

    def show(self, name: str, file: Path) -> None:
        """Put a copy of a file where people look for it, unless it is there."""

    def shown(self, name: str) -> Path:
        """Return the local path of what `show` put there; there may be nothing."""

    def newest(self, name: str) -> NewestFolder | None:
        """Return where the newest folder of a series is kept for other machines; None: all see this one's."""


class LocalStore:
    """A store on a file system that has rename, link and fsync."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        """How messages call it."""
        return str(self.root)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with replacing(self._own_path(name)) as scratch:
            yield scratch

    @contextmanager
    def writing_folder(self, name: str) -> Iterator[Path]:
        with replacing_folder(self._own_path(name)) as scratch:
            yield scratch

    def create(self, name: str, data: bytes) -> bool:
        return write_exclusively(self._own_path(name), data)

    def remove(self, name: str) -> None:
        self._own_path(name).unlink(missing_ok=True)

    def clear_scratch(self, name: str) -> None:
        remove_scratch(self._own_path(name))

    def read(self, name: str) -> bytes:
        return only_a_file(self._path(name)).read_bytes()

    def publish(self, record: Record) -> Record:
        if not write_exclusively(self._own_path(record.path), to_bytes(record)):
            raise ShardCorrupt(f"{record.path} appeared while its shard was being written. Run the stage again.")
        return record

    def unsent(self, path: str) -> Record | None:
        return None  # what is made here is published here

    def send(self, record: Record) -> Record:
        return record

    def discard(self, record: Record) -> None:
        self.remove(record.path)
        for file in record.files:
            self.remove(f"{record.place}/{file.name}")

    def under_keys(self, folder: str) -> list[UnderKey]:
        path = self._path(folder)
        if not path.is_dir() or os.path.realpath(path) != os.path.join(os.path.realpath(self.root), folder):
            return []
        visible = {name: size for name, size in sizes_in(path).items() if not name.startswith(".")}
        return by_key(folder, visible)

    def remove_under_key(self, found: UnderKey) -> None:
        folder = self._own_path(f"{found.folder}/{found.key}").parent
        remove_all(folder, [name for name in found.names if "/" not in name])

    def size(self, record: Record, file: StoredFile) -> int | None:
        try:
            return only_a_file(self.file(record, file)).stat().st_size
        except (FileNotFoundError, NotADirectoryError, ShardCorrupt):
            return None

    def checksum(self, record: Record, file: StoredFile) -> str:
        return checksum_file(self.file(record, file))

    def file(self, record: Record, file: StoredFile) -> Path:
        return self._path(f"{record.place}/{file.name}")

    def folder(self, record: Record) -> Path:
        return self._path(record.folder)

    def local(self, name: str) -> Path:
        return self._own_path(name)

    def folders(self) -> list[str]:
        found = []
        for folder in _visible_folders(self.root):
            found += [folder.name, *(f"{folder.name}/{inner.name}" for inner in _visible_folders(folder))]
        return found

    def removal(self, name: str) -> str:
        path = self._path(name)
        return f"rm {'-r ' if path.is_dir() else ''}{shlex.quote(str(path))}"

    def is_empty(self) -> bool:
        """A run that was killed as it claimed its folder left scratch there, and nothing else."""
        return not self.root.exists() or all(path.name.startswith(SCRATCH_PREFIX) for path in self.root.iterdir())

    def show(self, name: str, file: Path) -> None:
        shown = self._own_path(name)
        if shown == file:
            return
        if not shown.is_file() or shown.read_bytes() != file.read_bytes():
            with replacing(shown) as scratch:
                shutil.copyfile(file, scratch)

    def shown(self, name: str) -> Path:
        return self._path(name)

    def newest(self, name: str) -> NewestFolder | None:
        return None

    def names(self, folder: str, suffix: str) -> list[str]:
        path = self._path(folder)
        if not path.is_dir():
            return []
        entries = os.scandir(path)  # of a link to itself only Path says that it is none
        found = (e.name for e in entries if e.is_file(follow_symlinks=False) or Path(e.path).is_file())
        return sorted(f"{folder}/{name}" for name in found if name.endswith(suffix) and not name.startswith("."))

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if name.startswith("/") or "\0" in name or ".." in parts:
            raise ValueError(f"{name!r} would leave the run folder {self.root}")
        return self.root / name

    def _own_path(self, name: str) -> Path:
        """Return a path to write to; raise `BadInput` where a link within the run folder leads out of it.

        A run folder may come from others. The folder itself may be a link, and what is only read may be one.
        """
        path = self._path(name)
        folder, root = os.path.realpath(path.parent), os.path.realpath(self.root)
        if folder != root and not folder.startswith(root.rstrip("/") + "/"):
            raise BadInput(
                f"run folder {self.root}: {path.parent.relative_to(self.root)} is a link out of it, to "
                f"{folder}, where nothing is written. Make it a folder; only the whole run folder may be a link."
            )
        return path


def only_a_file(path: Path) -> Path:
    """Return a path at which a file lies, or nothing; raise `ShardCorrupt` for a folder, a pipe or a link to itself.

    Run folders come from others, and whoever opens a pipe waits for ever.
    """
    try:
        is_one = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        is_one = error.errno != errno.ELOOP
    if not is_one:
        raise ShardCorrupt(f"{path}: this is no file. Delete it and run its stage again; only it is redone.")
    return path


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
