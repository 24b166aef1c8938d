"""A run that Prefect calls Crashed while its process goes on is shown as Running again.

That happens when heartbeats do not arrive, because server or network were away for longer than the automation waits.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Running

SECONDS_BETWEEN_LOOKS = 30.0
SECONDS_TO_END = 30.0
MESSAGE = "It was called Crashed, but its process goes on."


@contextmanager
def shown_as_running(every: float = SECONDS_BETWEEN_LOOKS) -> Iterator[None]:
    """Look now and then, while the block runs, at what the server shows of this flow run, and put it right."""
    run = runtime.flow_run.id
    if run is None or not PREFECT_API_URL.value():  # a temporary server has no automation
        yield
        return
    ended = threading.Event()
    watch = contextvars.copy_context().run
    thread = threading.Thread(target=watch, args=(_look, UUID(str(run)), every, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(SECONDS_TO_END)  # nothing may be said after the flow's own last word


def _look(run: UUID, every: float, ended: threading.Event) -> None:
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # the next look is the next attempt
        while not ended.wait(every):
            try:
                put_right(run, ended)
            except (httpx.HTTPError, PrefectException, OSError) as error:
                logging.getLogger("prefect.flow_runs").debug("state not looked at: %s", error)


def put_right(run: UUID, ended: threading.Event) -> None:
    """Set the state of a flow run that is Crashed to Running, unless it has `ended` meanwhile."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        if state is not None and state.is_crashed() and not ended.is_set():
            client.set_flow_run_state(run, Running(message=MESSAGE))
