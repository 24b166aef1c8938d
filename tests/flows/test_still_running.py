"""A run that is called Crashed wrongly is put right by its own process, and one that has ended never is."""

import threading
import time
from uuid import UUID

import pytest
from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Crashed

from logitfuse.flows.still_running import put_right, shown_as_running

pytestmark = pytest.mark.usefixtures("prefect_server")


def state_of(run: str) -> State:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(run)).state
    assert state is not None
    return state


def call_crashed(run: str) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run), Crashed(message="said wrongly"), force=True)


def test_a_run_that_goes_on_is_shown_as_running_again_and_as_completed_in_the_end() -> None:
    seen: list[str] = []

    @flow
    def busy() -> str:
        run = str(runtime.flow_run.id)
        with shown_as_running(every=0.1):
            call_crashed(run)
            deadline = time.monotonic() + 60
            while not state_of(run).is_running() and time.monotonic() < deadline:
                time.sleep(0.1)
            seen.append(state_of(run).type.value)
        call_crashed(run)
        put_right(UUID(run), _set())
        seen.append(state_of(run).type.value)
        return run

    run = busy()
    assert seen == ["RUNNING", "CRASHED"]
    assert state_of(run).is_completed()


def _set() -> threading.Event:
    ended = threading.Event()
    ended.set()
    return ended


def test_outside_of_a_flow_nothing_is_looked_at() -> None:
    before = threading.active_count()
    with shown_as_running(every=0.01):
        assert threading.active_count() == before
