"""Files out of wheels, zip and tar archives; nothing in them is run, and nothing lands outside the folder."""

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

from logitfuse.storage.errors import ModelRefused


def extract_files(archive: Path, members: Sequence[str], into: Path) -> list[Path]:
    """Extract the files whose paths match the patterns into one flat folder, in the order of the patterns.

    Raises ModelRefused where a pattern matches nothing.
    """
    into.mkdir(parents=True, exist_ok=True)
    extracted: list[Path] = []
    with _opened(archive) as contents:
        for pattern in members:
            names = sorted(name for name in contents.names if fnmatch(name, pattern))
            if not names:
                raise ModelRefused(f"{archive} has no file {pattern}. Delete the archive and run again.")
            extracted += [contents.copy(name, into / PurePosixPath(name).name) for name in names]
    return extracted


class _Contents:
    """What a zip and a tar archive have in common: names, and a stream for each."""

    def __init__(self, archive: zipfile.ZipFile | tarfile.TarFile):
        self.archive = archive
        if isinstance(archive, zipfile.ZipFile):
            self.names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        else:
            self.names = [entry.name for entry in archive.getmembers() if entry.isfile()]

    def copy(self, name: str, target: Path) -> Path:
        with self._stream(name) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        return target

    def _stream(self, name: str) -> IO[bytes]:
        if isinstance(self.archive, zipfile.ZipFile):
            return self.archive.open(name)
        stream = self.archive.extractfile(name)
        assert stream is not None  # only regular files are listed
        return stream


@contextmanager
def _opened(archive: Path) -> Iterator[_Contents]:
    with zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive) as opened:
        yield _Contents(opened)
