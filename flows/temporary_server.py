"""The server that Prefect starts for one run where none is configured."""

from __future__ import annotations

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from logitfuse.storage.errors import BadInput


def start_temporary_server() -> None:
    """Start it now if the flows to come would; raises what its start raises, `BadInput` if another one does not answer.

    Prefect keeps one for each process, whoever asks first, so the flows use this one.
    """
    if (url := get_current_settings().api.url) is None:
        from logitfuse.flows.own_server import TemporaryServer  # a server's code takes a second to load

        TemporaryServer().start()
    elif (error := _unanswered()) is not None:
        raise BadInput(
            f"no Prefect server answers at {url}: {error}. Start it, correct PREFECT_API_URL or "
            "PREFECT_API_AUTH_STRING, or work without it: --plain."
        )


def _unanswered() -> Exception | None:
    """Return why the server that is configured does not answer, None where it does."""
    try:
        with get_client(sync_client=True) as client:
            return client.api_healthcheck()
    except Exception as error:  # the address is none
        return error
