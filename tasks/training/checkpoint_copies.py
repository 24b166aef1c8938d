"""Checkpoints of a run in an object store: the newest is sent there while training goes on, for another machine."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logitfuse.storage.atomic import SCRATCH_PREFIX
from logitfuse.storage.errors import StoreFailed
from logitfuse.storage.newest import NewestFolder
from logitfuse.tasks.training.checkpoint import newest_folder
from logitfuse.tasks.training.config import WorkerConfig

METRICS = "metrics.jsonl"  # sent with the checkpoint: the steps that led to it
SECONDS_BETWEEN_LOOKS = 2.0
Say = Callable[[str], None]


@contextmanager
def sending_checkpoints(series: NewestFolder | None, config: WorkerConfig, say: Say) -> Iterator[None]:
    """Begin with the store's checkpoint where it is newer than this machine's; send new ones while the block trains.

    None: the run is on a local disk, and nothing is done. What the store does not take is said once, and training goes
    on; a checkpoint that a later one has overtaken is not sent.
    """
    if series is None:
        yield
        return
    _fetch_newer(series, config, say)
    stop = threading.Event()
    thread = threading.Thread(target=_send_new, args=(series, config, say, stop), name="checkpoints", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _fetch_newer(series: NewestFolder, config: WorkerConfig, say: Say) -> None:
    here, there = newest_folder(config.checkpoints), series.newest()
    if there is None or (here is not None and here.name >= there.folder):
        return
    if (folder := series.fetch(config.checkpoints)) is None:
        say(f"the store's {there.folder} is damaged; training goes on with what this machine has")
        return
    if (folder / METRICS).is_file():
        os.replace(folder / METRICS, config.metrics)
    say(f"{folder.name} comes from the store")


def _send_new(series: NewestFolder, config: WorkerConfig, say: Say, stop: threading.Event) -> None:
    sent, failed = newest_folder(config.checkpoints), False
    while not stop.wait(SECONDS_BETWEEN_LOOKS):
        newest = newest_folder(config.checkpoints)
        if newest is None or newest == sent:
            continue
        try:
            with _held(newest, config.metrics) as held:
                series.send(held, stop.is_set)
            sent, failed = newest, False
        except FileNotFoundError:  # a later one has come, and this one went
            continue
        except (StoreFailed, OSError) as error:
            if not failed:
                say(f"{newest.name} is on this machine alone: {error}")
            failed = True


@contextmanager
def _held(checkpoint: Path, metrics: Path) -> Iterator[Path]:
    """Yield a folder with the same files and the metrics so far; training may remove its own meanwhile."""
    scratch = checkpoint.parent / f"{SCRATCH_PREFIX}{os.getpid()}-sending" / checkpoint.name
    try:
        scratch.mkdir(parents=True)
        for file in checkpoint.iterdir():
            os.link(file, scratch / file.name)
        with suppress(FileNotFoundError):
            shutil.copyfile(metrics, scratch / METRICS)
        yield scratch
    finally:
        shutil.rmtree(scratch.parent, ignore_errors=True)
