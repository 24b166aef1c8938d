"""Machines that are network namespaces on one bridge, and a PostgreSQL server for them: a small cluster on one host."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BRIDGE, NETWORK = "lf-bridge", "10.79.0"
HEAD = f"{NETWORK}.1"  # this host's own address, as the machines reach it
NAMES = Path("/etc/netns")


@dataclass(frozen=True)
class Machine:
    """A network namespace with an address and a host name of its own; file system and processor are this host's."""

    name: str

    def start(self, command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process there."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name, *command]
        with log.open("ab") as stream:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *named], env=dict(environment), stdout=stream, stderr=stream
            )

    def die(self) -> None:
        """Kill all that runs there at once, as a power cut would."""
        while living := ip("netns", "pids", self.name).split():
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)


def ip(*arguments: str) -> str:
    """Run an `ip` command; raise `OSError` with what it said if it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """Make so many machines that reach this host at `HEAD` and one another by name, and take them away again.

    Needs root.
    """
    made = [Machine(f"lf-machine-{number}") for number in range(count)]
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, machine in enumerate(made):
            ip("netns", "add", machine.name)
            ip("link", "add", f"lf-cable-{number}", "type", "veth", "peer", "name", "lf0", "netns", machine.name)
            ip("link", "set", f"lf-cable-{number}", "master", BRIDGE, "up")
            ip("-n", machine.name, "addr", "add", f"{NETWORK}.{number + 10}/24", "dev", "lf0")
            for device in ("lo", "lf0"):
                ip("-n", machine.name, "link", "set", device, "up")
            _name_machines(machine, made)
        yield made
    finally:
        for machine in made:
            with suppress(OSError):
                machine.die()
                ip("netns", "del", machine.name)
            shutil.rmtree(NAMES / machine.name, ignore_errors=True)
        with suppress(OSError):
            ip("link", "del", BRIDGE)


def _name_machines(machine: Machine, all_of_them: list[Machine]) -> None:
    """Give a machine a file of names; `ip netns exec` puts it in the place of /etc/hosts."""
    folder = NAMES / machine.name
    folder.mkdir(parents=True)
    lines = [f"{NETWORK}.{number + 10} {other.name}" for number, other in enumerate(all_of_them)]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server of this host, with its data in a folder of its own."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """What a Prefect server is given."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/postgres"

    def control(self, *command: str) -> None:
        """Call `pg_ctl`, which waits until it is done; `restart -m immediate` is a crash and a new start."""
        settings = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -p {self.port}"
        log = ["-l", f"{self.folder}/log", "-o", settings] if "stop" not in command else []
        _run(*_as_user(), _tool("pg_ctl"), "-D", f"{self.folder}/data", "-w", *log, *command)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL server on a free port of this host; all of it is gone afterwards."""
    server = Postgres(Path(tempfile.mkdtemp(prefix="lf-postgres-")), free_port())
    if _as_user():
        shutil.chown(server.folder, "postgres")
    try:
        data = f"{server.folder}/data"
        _run(*_as_user(), _tool("initdb"), "-D", data, "-U", "prefect", "--auth=trust", "-E", "UTF8")
        server.control("start")
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")
    finally:
        shutil.rmtree(server.folder, ignore_errors=True)


def _as_user() -> list[str]:
    return ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise OSError(f"{name} is not on the PATH; it comes with PostgreSQL's server.")
    return found


def _run(*command: str) -> None:
    with tempfile.TemporaryFile("w+") as said:  # not a pipe, which a server that stays would hold open
        done = subprocess.run(command, stdout=said, stderr=said, cwd="/")
        said.seek(0)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {said.read()}")


def free_port() -> int:
    """Return a port of this host that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
