"""A `logitfuse up` in a folder of its own, for tests."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_postgres import free_port

SECONDS = 300  # for what takes seconds on a machine that does nothing else
LOGITFUSE = [sys.executable, "-m", "logitfuse.flows.cli"]


def as_from_a_terminal() -> None:
    """Undo what `nohup` or a background job of a script made of the signals, before the program starts."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@dataclass
class Up:
    """A `logitfuse up` in an empty folder, as a user would start it there."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    more: dict[str, str] = field(default_factory=dict)  # environment of its own

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | self.more

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def start(self, *options: str) -> None:
        with (self.folder / "said").open("wb") as said:
            command = [*LOGITFUSE, "up", "--port", str(self.port), *options]
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=said,
                stderr=said,
                preexec_fn=as_from_a_terminal,  # the tests' process has no other thread here
            )
        wait_until(lambda: "Prefect is up:" in self.said or self.code is not None, lambda: self.said)
        assert self.code is None, self.said

    @property
    def code(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def stop(self, number: int) -> int:
        """Send a signal and wait for the end; return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run something in the same folder to its end."""
        environment = self.environment | {"PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"} | more
        return subprocess.run(arguments, cwd=self.folder, env=environment, capture_output=True, text=True)

    def answers(self, code: str) -> Any:
        """Run code with Prefect's client as `client`; return what it prints, as JSON."""
        whole = f"import json\nfrom prefect.client.orchestration import get_client\n{HEADER}    {code}"
        done = self.command(sys.executable, "-c", whole)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def processes(self) -> dict[int, str]:
        """Return the command lines of living processes that have this server's settings."""
        return living_processes(f"PREFECT_HOME={self.folder}/")


def living_processes(given: str) -> dict[int, str]:
    """Return the command lines of living processes in whose environment something stands; children inherit it."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if given.encode() in environment and command:
            found[int(process.name)] = command.replace(b"\0", b" ").decode()
    return found


HEADER = "with get_client(sync_client=True) as client:\n"


def wait_until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)
