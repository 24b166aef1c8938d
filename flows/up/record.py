"""Who is up: one `logitfuse up` per folder of state, what it says of itself, and who holds a port."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from logitfuse.flows.up.child import UP
from logitfuse.flows.up.place import Place
from logitfuse.storage.atomic import replacing
from logitfuse.storage.errors import BadInput
from logitfuse.storage.locks import only_one
from logitfuse.tasks.training.parent import identity

SECONDS_FOR_LEFTOVERS = 5.0  # processes of a killed `up` look twice a second whether it lives


class AlreadyUp(Exception):
    """Another `logitfuse up` holds the folder of state."""


@dataclass(frozen=True)
class Record:
    """What an `up` tells the next one."""

    host: str  # the machine's name
    pid: int
    url: str
    api: str
    folder: str


@contextmanager
def holding(place: Place) -> Iterator[Record | None]:
    """Hold the folder of state and tell others about it; yield what a killed `up` left, if one did.

    Raises `AlreadyUp` if another one holds it. The lock dies with its process, so a record without it is a dead one's.
    """
    try:
        place.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise BadInput(
            f"{place.home}: {error.strerror}. Give another --folder, or PREFECT_HOME for the state."
        ) from error
    with only_one(place.home / "up.lock", _refuse):
        left = read_record(place.home)
        own = Record(socket.gethostname(), os.getpid(), place.url, place.api, str(place.folder))
        with replacing(_file(place.home)) as scratch:
            scratch.write_text(json.dumps(asdict(own)) + "\n")
        try:
            yield left
        finally:
            _file(place.home).unlink(missing_ok=True)


def read_record(home: Path) -> Record | None:
    """Return what the `up` of this state says of itself; None if there is none, or not yet."""
    try:
        return Record(**json.loads(_file(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def check_port(place: Place) -> None:
    """Raise `BadInput` if the server could not listen there, and say who does; wait for a killed `up`'s leftovers."""
    deadline = time.monotonic() + SECONDS_FOR_LEFTOVERS
    while (error := _why_not(place.host, place.port)) is not None:
        if error.errno != errno.EADDRINUSE:
            raise BadInput(f"port {place.port} of {place.host}: {error.strerror}. Choose another --port or --host.")
        holder = _holder(place.port)
        if time.monotonic() > deadline or not _is_leftover(holder):
            raise BadInput(_taken(place, holder))
        time.sleep(0.2)


def _taken(place: Place, holder: psutil.Process | None) -> str:
    another = f"Give this one another: --port {_free_port(place)}."
    if holder is None:
        return f"port {place.port} of {place.host} is taken by a process of another user. {another}"
    who = f"process {holder.pid} (`{' '.join(holder.cmdline())[:80]}`)"
    if _up_of(holder):
        return (
            f"port {place.port} is taken by the `logitfuse up` of {holder.cwd()}; runs of its server start there, not "
            f"in {place.folder}. {another}"
        )
    if "prefect" in who:
        return (
            f"port {place.port} is taken by a Prefect server that `logitfuse up` did not start, {who}. {another} "
            f"Or use that server:\n"
            f"  export PREFECT_API_URL={place.api}\n  logitfuse deploy\n  prefect worker start --pool logitfuse"
        )
    return f"port {place.port} of {place.host} is taken by {who}. {another}"


def _why_not(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _free_port(place: Place) -> int:
    following = range(place.port + 1, place.port + 100)
    return next((port for port in following if _why_not(place.host, port) is None), following.stop)


def _holder(port: int) -> psutil.Process | None:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return psutil.Process(connection.pid)
            except psutil.Error:
                return None
    return None


def _up_of(process: psutil.Process) -> str | None:
    try:
        return str(process.environ().get(UP, "")) or None
    except psutil.Error:
        return None


def _is_leftover(holder: psutil.Process | None) -> bool:
    """Say whether what holds a port is about to end: it is gone already, or its `up` is."""
    if holder is None or not holder.is_running():
        return holder is not None
    belongs_to = _up_of(holder)
    if belongs_to is None:
        return False
    try:
        return identity(int(belongs_to.partition(":")[0])) != belongs_to
    except ProcessLookupError:
        return True


def _refuse(_: str) -> None:
    raise AlreadyUp


def _file(home: Path) -> Path:
    return home / "up.json"
