"""The server that Prefect starts for one run does not die of the Ctrl-C that is meant for the run."""

import signal
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.server.api.server import SubprocessASGIServer

from logitfuse.flows import temporary_server
from logitfuse.storage.errors import BadInput

SAYS_WHAT_IS_BLOCKED = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set()))"


def configured(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    settings = SimpleNamespace(api=SimpleNamespace(url=url))
    monkeypatch.setattr(temporary_server, "get_current_settings", lambda: settings)


def answers(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Configure a server that answers with an error, or well."""
    configured(monkeypatch, "http://me:secret@localhost:4200/api")
    client = SimpleNamespace(api_healthcheck=lambda: error)
    monkeypatch.setattr(temporary_server, "get_client", lambda **_: nullcontext(client))


def test_its_process_does_not_hear_ctrl_c_and_this_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def start(self: Any) -> None:
        said.append(subprocess.check_output([sys.executable, "-c", SAYS_WHAT_IS_BLOCKED], text=True).strip())

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    configured(monkeypatch, None)
    temporary_server.start_temporary_server()
    assert said == ["True"] and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


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
