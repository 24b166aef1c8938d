"""Where a run's results lie, behind one interface with one contract.

The contract: a result's files come first, whole; its record comes last and is created only if absent. Whoever sees a
record may read the files. Nothing is ever half-written under its final name, and no shared file is rewritten.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from logitfuse.storage.atomic import remove_scratch, replacing, replacing_folder, write_exclusively


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

    def clear_scratch(self, name: str) -> None:
        """Remove what a killed writer of `name` left; only for who holds the lock on it."""

    def read(self, name: str) -> bytes:
        """Return a small file's bytes; raise FileNotFoundError."""

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if it is not there."""

    def local(self, name: str) -> Path:
        """Return a local path whose bytes are the published file's."""

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the sorted names of published files in a folder (not below it) that end with `suffix`."""


class LocalStore:
    """A store on a file system that has rename, link and fsync."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with replacing(self._path(name)) as scratch:
            yield scratch

    @contextmanager
    def writing_folder(self, name: str) -> Iterator[Path]:
        with replacing_folder(self._path(name)) as scratch:
            yield scratch

    def create(self, name: str, data: bytes) -> bool:
        return write_exclusively(self._path(name), data)

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def clear_scratch(self, name: str) -> None:
        remove_scratch(self._path(name))

    def read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def size(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def local(self, name: str) -> Path:
        return self._path(name)

    def names(self, folder: str, suffix: str) -> list[str]:
        path = self._path(folder)
        if not path.is_dir():
            return []
        found = (entry.name for entry in os.scandir(path) if entry.is_file())
        return sorted(f"{folder}/{name}" for name in found if name.endswith(suffix) and not name.startswith("."))

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if name.startswith("/") or "\0" in name or ".." in parts:
            raise ValueError(f"{name!r} would leave the run folder {self.root}")
        return self.root / name
