"""The server that Prefect starts for one run lives as long as the run, no shorter and no longer."""

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.server.api.server import SubprocessASGIServer

from logitfuse.flows import temporary_server
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.parent import identity

STARTS_IT = """
import time
from logitfuse.flows.temporary_server import start_temporary_server
start_temporary_server()
from prefect.server.api.server import SubprocessASGIServer
server = SubprocessASGIServer()  # the one that the flows take
print(server.server_process.pid, server.api_url + "/health", sep="\\n", flush=True)
time.sleep(600)
"""


def configured(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    settings = SimpleNamespace(api=SimpleNamespace(url=url))
    monkeypatch.setattr(temporary_server, "get_current_settings", lambda: settings)


def answers(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Configure a server that answers with an error, or well."""
    configured(monkeypatch, "http://me:secret@localhost:4200/api")
    client = SimpleNamespace(api_healthcheck=lambda: error)
    monkeypatch.setattr(temporary_server, "get_client", lambda **_: nullcontext(client))


@pytest.mark.server
def test_it_hears_no_signal_to_the_runs_processes_and_ends_with_the_run_however_that_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_PROFILES_PATH": str(tmp_path / "none")}
    run = subprocess.Popen(
        [sys.executable, "-c", STARTS_IT], stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    assert run.stdout
    server = int(run.stdout.readline())
    assert os.getpgid(server) == server != os.getpgid(run.pid) and httpx.get(run.stdout.readline().strip()).is_success
    run.kill()
    run.wait()
    for _ in range(200):
        try:
            identity(server)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    raise AssertionError("it is still there")


def test_where_a_server_is_configured_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Any) -> None:
        raise RuntimeError("it was")

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    answers(monkeypatch, None)
    temporary_server.start_temporary_server()
    configured(monkeypatch, None)
    with pytest.raises(RuntimeError, match="it was"):
        temporary_server.start_temporary_server()


def test_a_server_that_does_not_answer_is_told_of_at_once_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, ConnectionError("401 for url 'http://me:secret@localhost:4200/api/health'"))
    with pytest.raises(BadInput, match=r"no Prefect server answers at http://localhost:4200/api: 401.*--plain") as told:
        temporary_server.start_temporary_server()
    assert "secret" not in str(told.value)
