"""A `logitfuse up` that crashes are tried on: its processes, its API, the limits whose slots must not stay taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from machines import free_port

TAG = "crash-tried"  # of all runs, and so of their tasks, whose number at once it limits
HELD_UNITS = Path(__file__).with_name("held_units")
SECONDS_TO_START = 300.0
ROOT = Path(__file__).resolve().parents[1]


class Api:
    """Prefect's API as a browser uses it: with a CSRF token. A server that does not answer raises `httpx.HTTPError`."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=20)
        self._name = str(uuid.uuid4())

    def get(self, path: str) -> Any:
        """Return what stands there."""
        return self._client.get(path).raise_for_status().json()

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Change something, or ask with a body."""
        token = self.get(f"/csrf-token?client={self._name}")["token"]
        headers = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": self._name}
        answer = self._client.request(method, path, json=dict(body or {}), headers=headers).raise_for_status()
        return answer.json() if answer.content else None


class Server:
    """One `logitfuse up` and its processes, in `folder`; runs lie in `folder/runs`."""

    def __init__(self, folder: Path, database_url: str | None) -> None:
        self.folder, self._database_url = folder, database_url
        self.port = free_port()
        self.api = Api(f"http://127.0.0.1:{self.port}/api")
        self.last_killed = 0.0
        self._up: subprocess.Popen[bytes] | None = None

    @property
    def control(self) -> Path:
        """Where runs are told to hold, and note what they do."""
        return self.folder / "control"

    @property
    def said(self) -> str:
        """What `up` has said."""
        return (self.folder / "said").read_text()

    def start(self) -> None:
        """Start it, and return once it is up."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment = inherited | {
            "PYTHONPATH": f"{HELD_UNITS}:{os.environ.get('PYTHONPATH', '')}",
            "HELD_UNITS": str(self.control),
            "HELD_RUNS": str(self.folder / "runs"),
        }
        database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database_url} if self._database_url else {}
        command = [sys.executable, "-m", "logitfuse.flows.cli", "up", "--port", str(self.port)]
        with (self.folder / "said").open("ab") as said:
            self._up = subprocess.Popen(
                command, cwd=self.folder, env=environment | database, stdout=said, stderr=said, start_new_session=True
            )
        wait_until(lambda: "Prefect is up:" in self.said or self.ended is not None, SECONDS_TO_START, "up")
        if self.ended is not None:
            raise RuntimeError(self.said)

    @property
    def ended(self) -> int | None:
        """Exit code of `up`; None while it is up."""
        assert self._up is not None, "it was started"
        return self._up.poll()

    def stop(self) -> None:
        """End it and all its processes."""
        if self._up is not None and self.ended is None:
            self._up.send_signal(signal.SIGCONT)
            self._up.send_signal(signal.SIGTERM)
            self._up.wait(SECONDS_TO_START)

    def signal_up(self, number: int) -> None:
        """Send `up` itself a signal; while it is stopped, it starts nothing again."""
        assert self._up is not None, "it was started"
        self._up.send_signal(number)

    def part(self, name: str) -> psutil.Process:
        """Return the process `server` or `worker` that `up` has started."""
        assert self._up is not None, "it was started"
        for child in psutil.Process(self._up.pid).children():
            if [name, "start"] == [word for word in child.cmdline() if word in (name, "start")]:
                return child
        raise LookupError(f"`up` has no {name}")

    def has_another(self, name: str, dead: int) -> bool:
        """Whether a part of another process id has taken the place of a dead one."""
        try:
            return self.part(name).pid != dead
        except (LookupError, psutil.Error):
            return False

    def kill(self, name: str) -> None:
        """Kill a part with all that it has started."""
        part = self.part(name)
        self.last_killed = time.monotonic()
        for process in [part, *part.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def answers(self) -> bool:
        """Whether the API answers."""
        try:
            return bool(self.api.get("/health"))
        except httpx.HTTPError:
            return False

    def limit(self, deployments: list[str], at_once: int) -> None:
        """Limit everything that can be limited: each deployment to one run at once, pool, queues and tag to so many."""
        for name in deployments:
            found = self.api.get(f"/deployments/name/{name}/{name}")
            self.api.send("patch", f"/deployments/{found['id']}", {"concurrency_limit": 1})
        self.api.send("patch", "/work_pools/logitfuse", {"concurrency_limit": at_once})
        for queue in self.api.send("post", "/work_pools/logitfuse/queues/filter"):
            path = f"/work_pools/logitfuse/queues/{queue['name']}"
            self.api.send("patch", path, {"concurrency_limit": at_once})
        self.api.send("post", "/concurrency_limits/", {"tag": TAG, "concurrency_limit": at_once})

    def slots(self) -> dict[str, float]:
        """Return the limits of which slots are taken; a tag's stays so for a while after a process died."""
        found = self.api.send("post", "/v2/concurrency_limits/filter", {"limit": 200})
        return {limit["name"]: limit["active_slots"] for limit in found if limit["active_slots"]}


@contextmanager
def served(folder: Path, database_url: str | None) -> Iterator[Server]:
    """Start a server, and end it afterwards."""
    server = Server(folder, database_url)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until something holds; return the seconds that it took; raise `TimeoutError` after so many."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.25)
    return time.monotonic() - began
