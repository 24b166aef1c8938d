"""How far a stage is, written beside the run's locks for who watches from another process; results never need it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from logitfuse.flows.bar_rows import Bar, stage_bars
from logitfuse.flows.pace import Standing
from logitfuse.flows.repeating import repeating
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.locks import open_own
from logitfuse.storage.store import only_a_file

if TYPE_CHECKING:
    from logitfuse.flows.stage_progress import StageProgress
    from logitfuse.storage.store import LocalStore

FOLDER, PREFIX, SUFFIX = ".locks", "progress.", ".json"
SECONDS_BETWEEN = 2.0
FRESH = 60.0  # seconds: the clocks of two machines, and what a network file system remembers, may be so far apart
MOST_BYTES, MOST_BARS = 1 << 18, 200


class BarNote(BaseModel):
    """A row of bars."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    name: str
    measure: str
    done: float = Field(ge=0)
    total: float | None = Field(None, ge=0)
    per_second: float | None = Field(None, ge=0)
    seconds_left: float | None = Field(None, ge=0)

    @property
    def bar(self) -> Bar:
        return Bar(self.name, Standing(self.measure, self.done, self.total, self.per_second, self.seconds_left))


class ProgressNote(BaseModel):
    """How far one process is with one stage."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    stage: str
    host: str
    pid: int = Field(gt=0)
    began: float
    bars: tuple[BarNote, ...] = Field((), max_length=MOST_BARS)


@contextmanager
def noting(store: LocalStore, progress: StageProgress) -> Iterator[None]:
    """Keep a note about a stage up to date while the block runs; what cannot be written is not missed."""
    host = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname())
    name = f"{FOLDER}/{PREFIX}{progress.stage}.{host}-{os.getpid()}{SUFFIX}"
    began = time.time()

    def write() -> None:
        with suppress(OSError, BadInput):
            _write(store.local(name), _note(progress, began))

    def remove() -> None:
        with suppress(OSError, BadInput):
            store.local(name).unlink(missing_ok=True)

    _sweep(store, host)
    write()
    with repeating(SECONDS_BETWEEN, write, remove):
        yield


def _sweep(store: LocalStore, host: str) -> None:
    """Remove what killed processes of this host left."""
    with suppress(OSError, BadInput):
        for path in store.local(FOLDER).glob(f"{PREFIX}*.{host}-*{SUFFIX}"):
            pid = path.name.removesuffix(SUFFIX).rpartition("-")[2]
            if pid.isdecimal() and not psutil.pid_exists(int(pid)):
                path.unlink()


def _note(progress: StageProgress, began: float) -> ProgressNote:
    bars = [
        BarNote(name=bar.name, measure=bar.at.measure, done=max(0.0, bar.at.done), total=bar.at.total,
                per_second=bar.at.per_second, seconds_left=bar.at.seconds_left)
        for bar in stage_bars(progress)[:MOST_BARS]
    ]  # fmt: skip
    return ProgressNote(stage=progress.stage, host=socket.gethostname(), pid=os.getpid(), began=began, bars=tuple(bars))


def _write(path: Path, note: ProgressNote) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = note.model_dump_json().encode()
    handle = open_own(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.pwrite(handle, data, 0)
        os.truncate(handle, len(data))
    finally:
        os.close(handle)


def read_notes(store: LocalStore) -> list[ProgressNote]:
    """Return the notes of processes that are at work, as far as can be told; others are left out."""
    found = []
    with suppress(OSError, BadInput):
        for path in sorted(store.local(FOLDER).glob(f"{PREFIX}*{SUFFIX}")):
            with suppress(OSError, ShardCorrupt, ValidationError, ValueError):
                if only_a_file(path).stat().st_size <= MOST_BYTES:
                    note = ProgressNote.model_validate_json(path.read_bytes())
                    found += [note] if _is_at_work(note, path.stat().st_mtime) else []
    return found


def _is_at_work(note: ProgressNote, stamp: float) -> bool:
    """Whether the note's process lives; of another machine's one only how old its note is tells."""
    if note.host != socket.gethostname():
        return time.time() - stamp < FRESH
    return psutil.pid_exists(note.pid) and time.time() - stamp < FRESH
