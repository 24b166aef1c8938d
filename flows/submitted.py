"""Runs that are handed to a Prefect server: which server, the run that it makes of a recipe, how that ends."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.utilities.urls import url_for

from logitfuse.flows.deployment_runs import LONGEST_PENDING
from logitfuse.flows.heartbeats import NOT_BEGUN
from logitfuse.flows.up.record import read_record
from logitfuse.storage.errors import BadInput, WorkFailed, without_passwords

PIPELINE = "pipeline/pipeline"
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_REVIVE = 60.0  # a run that is called Crashed though its process goes on says so within half of that
START = "Start one here, in another terminal: logitfuse up"


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """Yield a client of the server that is configured, else of the `logitfuse up` of this folder; raise `BadInput`."""
    chosen = {} if get_current_settings().api.url else {PREFECT_API_URL: _api_of_up()}
    with temporary_settings(chosen), _in_words(), get_client(sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            raise _unanswered(str(client.api_url), error)
        yield client


def _api_of_up() -> str:
    """Return where the server of this folder's `logitfuse up` is, by what it says of itself."""
    found = read_record(Path(os.environ.get("PREFECT_HOME") or Path("runs", ".prefect")).expanduser())
    if found is None or found.host != socket.gethostname():
        raise BadInput(
            "no Prefect server is configured (PREFECT_API_URL is not set), and no `logitfuse up` runs for this folder. "
            f"{START}; for a server of your own: export PREFECT_API_URL=http://HOST:4200/api"
        )
    return found.api


def _unanswered(api: object, error: Exception) -> BadInput:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return BadInput(f"no Prefect server answers at {api}: {why}. {START}; or correct PREFECT_API_URL.")


@contextmanager
def _in_words() -> Iterator[None]:
    """Let what a server refuses be raised in words."""
    try:
        yield
    except PrefectHTTPStatusError as error:
        code, api = error.response.status_code, f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
        if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise BadInput(
                f"the Prefect server at {api} wants a password: export PREFECT_API_AUTH_STRING=USER:PASSWORD"
            ) from None
        raise BadInput(
            f"the Prefect server at {api} refuses the run ({code}: {_detail(error.response)}). If it was deployed by "
            "another version of logitfuse, deploy again with this one: logitfuse deploy"
        ) from None
    except httpx.HTTPError as error:
        raise _unanswered(get_current_settings().api.url, error) from None


def _detail(answer: httpx.Response) -> str:
    try:
        told = answer.json()
        return str(told.get("detail", told))[:500]
    except (ValueError, AttributeError):
        return answer.reason_phrase


def deployed(client: SyncPrefectClient) -> DeploymentResponse:
    """Return the pipeline's deployment; raise `BadInput` where the server has none."""
    try:
        return client.read_deployment_by_name(PIPELINE)
    except ObjectNotFound:
        raise BadInput(
            f"the Prefect server at {client.api_url} has no deployment {PIPELINE}. Put it there: logitfuse deploy "
            "--folder DIR, the folder that shall hold runs/. To start a server that has it: logitfuse up"
        ) from None


def started(client: SyncPrefectClient, deployment: DeploymentResponse, name: str, given: dict[str, Any]) -> FlowRun:
    """Make a run of the pipeline, called as it will call itself once it begins; `given`: its parameters."""
    return client.create_flow_run_from_deployment(deployment.id, parameters=given, name=f"pipeline-{name}")


def page_of_run(run: FlowRun) -> str:
    """Return the URL of a run's page."""
    return without_passwords(url_for(run) or f"{get_current_settings().api.url}/flow_runs/{run.id}")


def followed(
    client: SyncPrefectClient,
    run: UUID,
    say: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> State[Any]:
    """Wait for a run's end and return its last state; say each state that it is in meanwhile.

    A server that is away is waited for: the run goes on without it. Raises `WorkFailed` if the run was deleted.
    """
    last, crashed, away = "", 0.0, False
    while True:
        try:
            state = client.read_flow_run(run).state
            away = False
        except ObjectNotFound:
            raise WorkFailed(f"run {run} was deleted on the server. Submit the recipe again.") from None
        except (httpx.HTTPError, OSError):
            state = None
            if not away:
                say("the server does not answer; it is asked again until it does")
            away = True
        if state is not None:
            name = (state.name or state.type.value).lower()
            if name != last:
                say(f"{name}: {state.message}" if state.message and not state.is_running() else name)
                last, crashed = name, clock()
            if state.is_final() and clock() - crashed >= _patience(state):
                return state
        pause(SECONDS_BETWEEN_LOOKS)


def _patience(state: State[Any]) -> float:
    """Return for how many seconds a run that has ended may turn out not to have."""
    if not state.is_crashed():
        return 0
    slow = (state.message or "").startswith(NOT_BEGUN)  # its machine may have much else to do
    return LONGEST_PENDING.total_seconds() if slow else SECONDS_TO_REVIVE
