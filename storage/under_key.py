"""All that lies in a folder under one key: a result, its record, and what its maker keeps beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from logitfuse.storage.atomic import flush, remove_whole
from logitfuse.storage.keys import KEY_HEX_DIGITS

KEY = re.compile(rf"[0-9a-f]{{{KEY_HEX_DIGITS}}}")
RECORDS = ".json"


@dataclass(frozen=True)
class UnderKey:
    """What lies in a folder of the run, such as capture/gemma, under a key; `names` are relative to that folder."""

    folder: str
    key: str
    names: tuple[str, ...]
    bytes: int

    @property
    def records(self) -> list[str]:
        """Paths under the run of what may be a record."""
        return [f"{self.folder}/{name}" for name in self.names if name.endswith(RECORDS) and "/" not in name]


def key_in(name: str) -> str | None:
    """Return the key in a file's name such as part-00003.KEY.parquet; None if it has none, or more than one."""
    first, *parts = name.split(".")
    found = [part for part in parts if KEY.fullmatch(part)]
    return found[0] if first and len(found) == 1 and not KEY.fullmatch(first) else None


def by_key(folder: str, sizes: Mapping[str, int]) -> list[UnderKey]:
    """Put names in a folder, each with its bytes, together by their key; what has none is left out."""
    found: dict[str, list[str]] = {}
    for name in sorted(sizes):
        if (key := key_in(name.partition("/")[0])) is not None:
            found.setdefault(key, []).append(name)
    return [UnderKey(folder, key, tuple(names), sum(sizes[n] for n in names)) for key, names in sorted(found.items())]


def sizes_in(path: Path) -> dict[str, int]:
    """Return the bytes of each entry of a local folder, of folders with all that is in them; links count nothing."""
    with os.scandir(path) as entries:
        return {entry.name: _bytes(entry) for entry in entries}


def _bytes(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return 0
    if not entry.is_dir(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_size
    files = (os.path.join(folder, name) for folder, _, names in os.walk(entry.path) for name in names)
    return sum(os.lstat(file).st_size for file in files)


def records_first(names: Iterable[str]) -> list[str]:
    """Return names in the order in which they go: without its record a result is none, whatever is left of it."""
    return sorted(names, key=lambda name: (not name.endswith(RECORDS) or "/" in name, name))


def remove_all(folder: Path, names: Iterable[str]) -> None:
    """Remove entries of a local folder; records are gone for good before the first file goes."""
    ordered = records_first(names)
    records = [name for name in ordered if name.endswith(RECORDS)]
    for name in records:
        remove_whole(folder / name)
    if records and folder.is_dir():
        flush(folder)
    for name in ordered[len(records) :]:
        remove_whole(folder / name)
