"""A PostgreSQL server of a test's own, in a folder of its own, with a password."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "s@cret/1"  # what a URL must quote
QUOTED = "s%40cret%2F1"


def why_not() -> str:
    """Return why no server can be started here; empty if one can."""
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        return "initdb and pg_ctl are not on the PATH"
    if os.geteuid() == 0 and not _unprivileged():
        return "PostgreSQL refuses to run as root, and there is no user postgres to run it as"
    return ""


@contextmanager
def local_postgres() -> Iterator[str]:
    """Yield `USER:PASSWORD@HOST:PORT` of a server that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # not below pytest's, which only its owner can enter
    try:
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, _unprivileged())
        data, port = folder / "data", free_port()
        _call(
            "initdb", "-D", data, "-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync"
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        _call("pg_ctl", "start", "-w", "-t", "90", "-D", data, "-l", folder / "log", "-o", options)
        try:
            yield f"tester:{QUOTED}@127.0.0.1:{port}"
        finally:
            _call("pg_ctl", "stop", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _call(*command: object) -> None:
    as_other = ["runuser", "-u", _unprivileged(), "--"] if os.geteuid() == 0 else []
    # What a server started by pg_ctl writes must not go to a pipe, which it would hold open.
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run([*as_other, *map(str, command)], cwd="/", stdout=said, stderr=said)
        said.seek(0)
        assert done.returncode == 0, said.read()


def _unprivileged() -> str:
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name == "postgres"), "")
