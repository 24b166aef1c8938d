"""Start everything in order, stay, stop everything in order."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import httpx

from logitfuse.flows.up import words
from logitfuse.flows.up.child import UP
from logitfuse.flows.up.database import Database
from logitfuse.flows.up.place import OF_OTHER_SERVERS, Place
from logitfuse.flows.up.record import AlreadyUp, Record, check_port, holding, read_record
from logitfuse.flows.up.runs import RunWatch, Serious, page_of
from logitfuse.flows.up.service import Service, kill_members
from logitfuse.flows.up.signals import Signals, StopAsked
from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.training.parent import identity

SECONDS_TO_START = 180.0  # of the server; 5 s on an idle machine, more for a database's migrations
SECONDS_TO_DEPLOY = 300.0
SECONDS_FOR_RUNS, SECONDS_TO_STOP = 20.0, 15.0
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_NEWS = 0.5, 3.0
DEAF = "flow run cancellation will fail"  # a worker says so once, and would never listen again


def serve(place: Place, database: Database | None, *, worker: bool, limit: int | None) -> int:
    """Be up until a signal says otherwise; return the exit code. Raises `BadInput` before anything is started."""
    signals = Signals()
    try:
        with holding(place) as left:
            check_port(place)
            if database:
                database.check()
            Up(place, database, signals, worker=worker, limit=limit).run(left)
    except AlreadyUp:
        return _greet_the_first(place, signals)
    except StopAsked:
        words.say("Stopped before it was up.")
    return 0


def _greet_the_first(place: Place, signals: Signals) -> int:
    """Say where the `up` of this folder is, once it answers; raise `WorkFailed` if it does not."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        first = read_record(place.home)
        if first is not None and is_healthy(first.api):
            words.found(first)
            return 0
        signals.pause(SECONDS_BETWEEN_LOOKS)
    who = f"process {first.pid} on {first.host}" if first else "another process"
    raise WorkFailed(f"`logitfuse up` runs already ({who}), but its server does not answer. Its logs: {place.home}")


def is_healthy(api: str) -> bool:
    """Say whether a Prefect server answers there."""
    with suppress(httpx.HTTPError):
        return httpx.get(f"{api}/health", timeout=5, trust_env=False).text == "true"
    return False


def become(environment: dict[str, str]) -> None:
    """Take this environment for this process's own client, which reads it when Prefect is imported."""
    for name in OF_OTHER_SERVERS:
        os.environ.pop(name, None)
    os.environ.update(environment)


class Up:
    """The processes of one `logitfuse up`."""

    def __init__(
        self, place: Place, database: Database | None, signals: Signals, *, worker: bool, limit: int | None
    ) -> None:
        self._place, self._database, self._signals = place, database, signals
        self._identity = identity(os.getpid())
        self._environment = place.environment(self._identity)
        url = database.url if database else None
        listen = ["server", "start", "--host", place.host, "--port", str(place.port)]
        self._server = self._service("server", ["prefect", *listen], place.server_environment(self._identity, url))
        poll = ["worker", "start", "--pool", "logitfuse", "--type", "process", "--name", f"up-{socket.gethostname()}"]
        poll += ["--limit", str(limit)] if limit else []
        self._worker = self._service("worker", ["prefect", *poll], self._environment) if worker else None
        if self._worker:
            self._worker.survived = True
        deploy = ["logitfuse.flows.cli", "deploy", "--patience", str(SECONDS_TO_START), "--folder", str(place.folder)]
        self._deploy = self._service("deployment", deploy, self._environment)

    def _service(self, name: str, command: list[str], environment: dict[str, str]) -> Service:
        return Service(name, command, self._place.folder, self._place.home / f"{name}.log", environment)

    def run(self, left: Record | None) -> None:
        """Start, stay until a signal comes, stop."""
        words.starting(self._place, self._database, left)
        try:
            self._start()
            become(self._environment)
            words.ready(self._place, page_of("pipeline/pipeline", self._place.url), worker=self._worker is not None)
            self._stay()
        except StopAsked as asked:
            words.stopping(str(asked), len(self._worker.children()) if self._worker else 0)
        finally:
            self._stop()
        words.stopped(self._place)

    def _start(self) -> None:
        self._server.start()
        self._deploy.start()
        self._wait(lambda: is_healthy(self._place.api), "server", self._server, SECONDS_TO_START)
        self._wait(lambda: self._deploy.exit_code == 0, "deployments", self._deploy, SECONDS_TO_DEPLOY)
        if self._worker:
            self._worker.start()
            self._wait(lambda: any("started!" in line for line in self._worker_lines()), "worker", self._worker, 120)

    def _worker_lines(self) -> list[str]:
        return self._worker.new_lines() if self._worker else []

    def _wait(self, holds: Callable[[], bool], what: str, service: Service, patience: float) -> None:
        began = time.monotonic()
        while not holds():
            if service.exit_code not in (None, 0) or self._server.exit_code is not None:
                dead = self._server if self._server.exit_code is not None else service
                raise self._told(dead.failure(f"ended with exit code {dead.exit_code}"))
            if time.monotonic() - began > patience:
                raise self._told(service.failure(f"is not ready after {patience:.0f} s"))
            self._signals.pause(0.2)
        words.done(what, time.monotonic() - began)

    def _stay(self) -> None:
        watch, serious = RunWatch(self._place.url), Serious()
        services = [self._server, *([self._worker] if self._worker else [])]
        while True:
            for service in services:
                lines = service.new_lines()
                for line in serious.among(lines):
                    words.event(f"{service.name}: {self._safe(line)}")
                if any(DEAF in line for line in lines):
                    words.event("The worker lost the server for too long to hear of cancelled runs; its runs go on.")
                    service.kill()
                service.restart_if_dead(words.event)
            for line in watch.news():
                words.event(line)
            self._signals.pause(SECONDS_BETWEEN_NEWS)

    def _stop(self) -> None:
        pause = self._signals.pause_while_stopping
        self._deploy.stop(pause, 1)
        if self._worker:
            self._worker.interrupt_children(pause, SECONDS_FOR_RUNS)
            self._worker.stop(pause, SECONDS_TO_STOP)
        self._server.stop(pause, SECONDS_TO_STOP)
        kill_members(UP, self._identity)

    def _safe(self, text: str) -> str:
        return self._database.without_password(text) if self._database else text

    def _told(self, failure: WorkFailed) -> WorkFailed:
        return WorkFailed(self._safe(str(failure)))
