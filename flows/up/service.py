"""One of the processes of `logitfuse up`: started, looked at, started again, stopped with its children."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from logitfuse.flows.up.child import CHILD
from logitfuse.storage.errors import WorkFailed

DEATHS = 3  # so many within SECONDS, and it is not started again
SECONDS = 120.0
LINES_OF_A_FAILURE = 12
Pause = Callable[[float], None]


class Service:
    """A process that stays; what it says goes to `log`, which it writes itself, so that nobody can hold it up."""

    survived = False  # whether what it has started goes on without it, as a worker's runs do

    def __init__(self, name: str, command: list[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log = name, log
        self._command, self._folder, self._environment = command, folder, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._read, self._deaths = 0, [float("-inf")] * DEATHS
        if log.exists():
            log.replace(log.with_suffix(".old.log"))

    def start(self) -> None:
        """Start it, in a session of its own: Ctrl-C in the terminal is for `up`, which stops all in order."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*CHILD, *self._command], cwd=self._folder, env=dict(self._environment), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None, "it was started"
        return self._process.poll()

    def restart_if_dead(self, say: Callable[[str], None]) -> None:
        """Start it again if it ended by itself; raise `WorkFailed` if it does that again and again."""
        code = self.exit_code
        if code is None:
            return
        self._deaths = [*self._deaths[1:], time.monotonic()]
        if self._deaths[-1] - self._deaths[0] < SECONDS:
            raise self.failure(f"ended {DEATHS} times within {SECONDS:.0f} s")
        say(f"the {self.name} ended (exit code {code}); starting it again. Its log: {self.log}")
        if not self.survived:
            self._kill_session()  # a server's API would hold its port
        self.start()

    def kill(self) -> None:
        """End it at once and alone, without what it has started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def failure(self, what: str) -> WorkFailed:
        """Return what to raise when it cannot go on, with the end of its log."""
        end = "\n".join(self.log.read_text(errors="replace").splitlines()[-LINES_OF_A_FAILURE:])
        return WorkFailed(f"the {self.name} {what}. The end of its log {self.log}:\n{end}")

    def new_lines(self) -> list[str]:
        """Return the whole lines that it has written since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        return whole.decode(errors="replace").splitlines()

    def children(self) -> list[psutil.Process]:
        """Return the processes that it has started itself: a worker's are its runs."""
        try:
            return psutil.Process(self._process.pid).children() if self._process else []
        except psutil.Error:
            return []

    def interrupt_children(self, pause: Pause, patience: float) -> None:
        """Let a worker's runs end as by Ctrl-C: their models' processes stop, and Prefect notes that they crashed."""
        deadline, told = time.monotonic() + patience, set()
        while (running := self.children()) and time.monotonic() < deadline:
            for child in running:
                if child.pid not in told:
                    told.add(child.pid)
                    _signal(child.pid, signal.SIGINT)
            pause(0.1)

    def stop(self, pause: Pause, patience: float) -> None:
        """Ask it to end, and end it with its session if it has not done so after `patience` seconds."""
        if self._process is None:
            return
        if self._process.poll() is None:
            _signal(self._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while self._process.poll() is None and time.monotonic() < deadline:
            pause(0.05)
        self._kill_session()
        self._process.wait()

    def _kill_session(self) -> None:
        with suppress(ProcessLookupError):
            if self._process is not None:
                os.killpg(self._process.pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_members(variable: str, value: str) -> list[int]:
    """Kill every process whose environment has `variable=value`, but for this one; return which were left."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                process.kill()
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
