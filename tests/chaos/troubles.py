"""What may befall a process: called in a fork of the nursery, by name, before it becomes a command."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from typing import Any

import yaml
from killer import changes

VARIABLE = "TROUBLE_IN_TRAINING"


def refuse(folder: str, at: int, number: int, times: int = 1) -> None:
    """Let the operating system refuse changes of files below a folder from the `at`th on, `times` times."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if changes(event, arguments, folder) and not (event == "os.mkdir" and os.path.isdir(arguments[0])):
            seen += 1
            if at <= seen < at + times:
                os.write(2, f"refused: {event} {os.fsdecode(arguments[0])}\n".encode())
                raise OSError(number, os.strerror(number), os.fsdecode(arguments[0]))

    sys.addaudithook(hook)


def few_handles(most: int) -> None:
    """Let no file be opened once so many are open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def small_files(most: int) -> None:
    """Let no file grow beyond so many bytes, as `ulimit -f` does."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def little_memory(more: int) -> None:
    """Let this process take so many bytes more than it has."""
    with open("/proc/self/statm") as stream:
        has = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + more, has + more))


def closed_pipe() -> None:
    """Let standard output be a pipe that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    os.dup2(writes, 1)


def full_output() -> None:
    """Let standard output be a file on a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def jumping_clock(seconds: float) -> None:
    """Let the time of day jump back and forth."""
    real, calls = time.time, 0

    def jumped() -> float:
        nonlocal calls
        calls += 1
        return real() + seconds * (calls % 3 - 1)

    time.time = jumped


def signalled(number: int, folder: str, at: int) -> None:
    """Send this process a signal at its `at`th change of files below a folder."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if changes(event, arguments, folder):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def slow(folder: str, seconds: float) -> None:
    """Let every change of files below a folder take long."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if changes(event, arguments, folder):
            time.sleep(seconds)

    sys.addaudithook(hook)


def no_locks(number: int) -> None:
    """Let the file system have no locks."""
    import fcntl

    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = flock


def from_environment() -> None:
    """Bring trouble on a process that was started with it in its environment."""
    if VARIABLE in os.environ:
        name, *arguments = os.environ[VARIABLE].split("|")
        globals()[name](*(yaml.safe_load(part) for part in arguments))


def killed(folder: str, at: int) -> None:
    """Kill this process at its `at`th change of files, as the kernel does where memory runs out."""
    signalled(signal.SIGKILL, folder, at)
