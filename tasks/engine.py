"""Doing what is missing: a piece of work has a key, and is done if a record with that key stands.

Everything that runs work (the command line, Prefect's tasks, a retry, the nightly rebuild) comes through `perform`.
"""

import os
import platform
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from logitfuse.storage.errors import ShardCorrupt, StoreFailed
from logitfuse.storage.keys import result_key
from logitfuse.storage.locks import only_one
from logitfuse.storage.records import Record, StoredFile, from_bytes, record_name
from logitfuse.storage.settings import Settings, changed_settings
from logitfuse.storage.shards import stored_file
from logitfuse.storage.store import LocalStore
from logitfuse.storage.system_errors import in_words

Counts = dict[str, Any]  # what was counted; an entry MADE holds what may differ from run to run, such as times
MADE = "made"
Progress = Callable[[int, int], None]  # (done, total), in whatever the stage counts; total 0: not known
State = Literal["kept", "done"]


def silent(done: int, total: int) -> None:
    """A progress report that nobody reads."""


@dataclass(frozen=True)
class Work:
    """One result to be made: where it goes, all that its key is made from, and how to make it."""

    stage: str
    place: str
    name: str
    compute: Callable[[Path, Progress], Counts]  # writes the file, or fills the folder, at the path
    settings: Settings | None = None
    inputs: tuple[Record, ...] = ()
    fingerprints: dict[str, Any] = field(default_factory=dict)
    shard: int | None = None
    folder: bool = False
    suffix: str = ".parquet"
    after: Callable[[], None] | None = None  # clears up what is of no use once the result is published

    @property
    def key(self) -> str:
        return result_key(self.stage, self.settings, [i.checksum for i in self.inputs], self.fingerprints)

    @property
    def file_name(self) -> str:
        """Name of the shard, or of the folder."""
        return f"{self.name}.{self.key}" + ("" if self.folder else self.suffix)

    @property
    def record_path(self) -> str:
        return f"{self.place}/{record_name(self.name, self.key)}"


@dataclass(frozen=True)
class Outcome:
    """What became of a piece of work; `kept` means it stood already."""

    state: State
    record: Record
    seconds: float = 0.0


def find(store: LocalStore, work: Work) -> Record | None:
    """Return the record of finished work, None if it must be done.

    A record whose file is missing or has another size does not count; a damaged record raises `ShardCorrupt`.
    """
    return read_record(store, work.record_path)


def read_record(store: LocalStore, path: str) -> Record | None:
    """Return the record at a path if it stands and its files have the recorded sizes; raise `ShardCorrupt`."""
    try:
        record = from_bytes(store.read(path), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if record.path != path:
        raise ShardCorrupt(
            f"{path}: this is the record of another result ({record.path}). Delete it and run its stage again; only it "
            "is redone."
        )
    whole = all(store.size(record, file) == file.bytes for file in record.files)
    return record if whole else None


def perform(
    store: LocalStore,
    work: Work,
    *,
    progress: Progress = silent,
    say: Callable[[str], None] | None = None,
    redo: bool = False,
) -> Outcome:
    """Do one piece of work unless it is done; one process at a time does it, the others wait and keep its result."""
    with in_words(f"{work.place}/{work.file_name}", store.root):
        if not redo and (record := find(store, work)):
            return Outcome("kept", record)
        lock = store.local(f".locks/{work.place.replace('/', '.')}.{work.name}.{work.key}.lock")
        with only_one(lock, say):
            return _perform(store, work, progress, redo)


def _perform(store: LocalStore, work: Work, progress: Progress, redo: bool) -> Outcome:
    if not redo and (record := find(store, work)):
        return Outcome("kept", record)
    if not redo and (record := store.unsent(work.record_path)):  # made before the store went out of reach
        return _outcome(work, record, store.send(record), 0.0)
    try:
        return _do(store, work, progress, redo)
    except _Stands as found:
        return _outcome(work, None, found.record, 0.0)


class _Stands(Exception):
    """Another process published the result meanwhile: this one's goes, before it is put anywhere."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record


def _do(store: LocalStore, work: Work, progress: Progress, redo: bool) -> Outcome:
    started, clock = time.time(), time.monotonic()  # the first may jump
    name = f"{work.place}/{work.file_name}"
    store.clear_scratch(name)
    store.clear_scratch(work.record_path)
    with store.writing_folder(name) if work.folder else store.writing(name) as scratch:
        counts = work.compute(scratch, progress)
        files = _files(work, scratch)
        with suppress(StoreFailed):  # out of reach: what was made stays on this machine, and is sent later
            if not redo and (record := find(store, work)):  # the lock was lost, or holds on one host only
                raise _Stands(record)
            # What stood there is not whole, or is made again: it goes now that there is something to take its place.
            store.remove(work.record_path)
    seconds = time.monotonic() - clock
    record = make_record(work, files, counts, started, seconds)
    return _outcome(work, record, store.publish(record), seconds)


def _files(work: Work, scratch: Path) -> list[StoredFile]:
    if not work.folder:
        return [stored_file(scratch, work.file_name)]
    paths = (path for path in sorted(scratch.rglob("*")) if path.is_file())
    return [stored_file(path, f"{work.file_name}/{path.relative_to(scratch).as_posix()}") for path in paths]


def _outcome(work: Work, made: Record | None, standing: Record, seconds: float) -> Outcome:
    if work.after:
        work.after()
    return Outcome("done" if standing is made else "kept", standing, seconds)


def make_record(work: Work, files: list[StoredFile], counts: Counts, started: float, seconds: float) -> Record:
    """Describe finished work."""
    return Record(
        stage=work.stage,
        place=work.place,
        name=work.name,
        shard=work.shard,
        key=work.key,
        files=files,
        settings=changed_settings(work.settings) if work.settings else {},
        inputs=[record.checksum for record in work.inputs],
        fingerprints=work.fingerprints,
        counts={name: value for name, value in counts.items() if name != MADE},
        made={
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": round(started, 3),
            "seconds": round(seconds, 3),
            "python": platform.python_version(),
            "versions": _versions(),
            **counts.get(MADE, {}),
        },
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in ("logitfuse", "torch", "transformers", "tokenizers", "pyarrow", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
