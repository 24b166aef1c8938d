"""`logitfuse up`: everything comes up, a second one finds the first, runs run, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from local_postgres import PASSWORD, QUOTED, free_port, local_postgres, why_not

from logitfuse.flows.heartbeats import NAME
from logitfuse.tasks.recipe import Recipe

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]
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

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}

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
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if f"PREFECT_HOME={self.folder}/".encode() in environment and command:
                found[int(process.name)] = command.replace(b"\0", b" ").decode()
        return found


HEADER = "with get_client(sync_client=True) as client:\n"


def wait_until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "project").mkdir()
    started = Up(tmp_path / "project")
    try:
        yield started
    finally:
        if started.process is not None and started.code is None:
            started.stop(signal.SIGTERM)


def test_from_an_empty_folder_to_a_finished_run_and_back(up: Up, tiny_recipe: Callable[..., Recipe]) -> None:
    up.start()
    queues = up.answers("print(json.dumps([q.name for q in client.read_work_queues(work_pool_name='logitfuse')]))")
    assert {"capture", "data", "train", "orchestrate"} <= set(queues)

    second = up.command(*LOGITFUSE, "up")
    assert second.returncode == 0 and f"Prefect is up already: http://127.0.0.1:{up.port}" in second.stdout
    (up.folder / "elsewhere").mkdir()
    third = up.command(*LOGITFUSE, "up", "--folder", "elsewhere", "--port", str(up.port))
    assert third.returncode == 2 and "is taken by the `logitfuse up` of" in " ".join(third.stderr.split())

    here = {"folder": "runs", "min_free_gb": 0, "device": "cpu"}
    parameters = json.dumps({"recipe": tiny_recipe(execution=here).model_dump(mode="json")})
    run = up.command(sys.executable, "-m", "prefect", "deployment", "run", "prepare/prepare", "--params", parameters)
    assert run.returncode == 0, run.stderr
    wait_until(lambda: "prepare-tiny completed: prepare: 3 done" in up.said, lambda: up.said)
    assert list((up.folder / "runs" / "tiny" / "prepare").glob("part-*.parquet"))

    assert up.processes()
    up.stop(signal.SIGKILL)
    wait_until(lambda: not up.processes(), lambda: str(up.processes()))

    up.start()
    assert "was killed; this one takes over" in up.said
    automations = up.answers("print(json.dumps([a.name for a in client.read_automations()]))")
    assert automations.count(NAME) == 1
    assert up.stop(signal.SIGTERM) == 0 and "Stopped." in up.said
    assert not up.processes()


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_postgresql_is_used_and_its_password_is_shown_nowhere(up: Up) -> None:
    with local_postgres() as server:
        missing = up.command(*LOGITFUSE, "up", "--database-url", f"postgresql://{server}/nowhere")
        assert missing.returncode == 2 and "nowhere" in missing.stderr and "does not exist" in missing.stderr
        up.start("--database-url", f"postgresql://{server}/postgres")
        assert "PostgreSQL, database postgres at 127.0.0.1" in up.said
        assert not list((up.folder / "runs" / ".prefect").glob("*.db"))
        commands = "\n".join(path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        logs = "\n".join(path.read_text() for path in (up.folder / "runs" / ".prefect").glob("*.log"))
        for shown in (commands, logs, up.said, missing.stdout, missing.stderr):
            assert PASSWORD not in shown and QUOTED not in shown
        assert up.stop(signal.SIGHUP) == 0
    assert not up.processes()
