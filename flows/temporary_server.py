"""The server that Prefect starts for one run where none is configured: it outlives Ctrl-C, so that the run can end."""

from __future__ import annotations

import signal
import threading

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from logitfuse.storage.errors import BadInput


def start_temporary_server() -> None:
    """Start it now if the flows to come would; raises what its start raises, `BadInput` if another one does not answer.

    A terminal sends Ctrl-C to the server, too. Prefect would then try for minutes to tell a dead server that the run
    was interrupted. A process begins with those signals blocked that the thread had blocked which started it, so a
    thread of its own starts this one; Prefect stops its server by SIGTERM.
    """
    if (url := get_current_settings().api.url) is not None:
        if (error := _unanswered()) is not None:
            raise BadInput(
                f"no Prefect server answers at {url}: {error}. Start it, correct PREFECT_API_URL or "
                "PREFECT_API_AUTH_STRING, or work without it: --plain."
            )
        return
    from prefect.server.api.server import SubprocessASGIServer

    raised: list[BaseException] = []

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            SubprocessASGIServer().start()  # one for each process, whoever asks first
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=start, name="temporary-server", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _unanswered() -> Exception | None:
    """Return why the server that is configured does not answer, None where it does."""
    try:
        with get_client(sync_client=True) as client:
            return client.api_healthcheck()
    except Exception as error:  # the address is none
        return error
