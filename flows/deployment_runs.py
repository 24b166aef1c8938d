"""Runs of the stages' deployments, as the flow that hands out sees them through Prefect's API."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from logitfuse.flows.hand_out import Standing
from logitfuse.flows.heartbeats import NOT_BEGUN
from logitfuse.flows.leader import address_of_leader
from logitfuse.flows.portions import Portion
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.recipe import Recipe

AT_ONCE = 100  # runs asked for in one request
UNDER_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
# Between a worker's taking a run and the run's first word lie seconds; a worker that died there leaves it so for ever.
LONGEST_PENDING = timedelta(minutes=5)


class DeploymentRuns:
    """Starts, watches and cancels runs of deployments `STAGE/STAGE`."""

    def __init__(self, recipe: Recipe) -> None:
        """Let runs work on `recipe`."""
        self._recipe = recipe
        self._leader: UUID | None = None  # the run of rank 0, where hosts train together
        # Whoever looks for a run of the same work finds it by its tag: another recipe or folder makes another one.
        self._tag = "logitfuse-" + hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:12]

    def start(self, portion: Portion, attempt: int) -> UUID:
        """Start a run of a portion; the first attempt takes over one that is under way.

        Raises `BadInput` if there is no such deployment.
        """
        run = self._taken_over(portion) if attempt == 1 else None
        run = run or self._started(portion)
        if portion.rank == 0:
            self._leader = run
        return run

    def _taken_over(self, portion: Portion) -> UUID | None:
        with get_client(sync_client=True) as client:
            return _under_way(client, self._tags(portion))

    def _tags(self, portion: Portion) -> list[str]:
        return [self._tag, str(portion)]

    def _started(self, portion: Portion) -> UUID:
        name = f"{portion.stage}/{portion.stage}"
        try:
            run = run_deployment(
                name,
                parameters={"recipe": self._told(portion), **portion.parameters},
                tags=self._tags(portion),
                timeout=0,
            )
        except ObjectNotFound as error:
            raise BadInput(
                f"execution.shards_per_run hands stages out to workers, but this server has no deployment {name!r}. "
                "Start it with `logitfuse up`, or set execution.shards_per_run to 0."
            ) from error
        assert isinstance(run, FlowRun)  # a coroutine only where an event loop runs
        return run.id

    def _told(self, portion: Portion) -> dict[str, Any]:
        """Return the recipe as a run is given it: on several hosts with its rank, and with where rank 0 is."""
        execution = self._recipe.execution
        if portion.rank is not None:
            found: dict[str, Any] = {"rank": portion.rank}
            if portion.rank and not execution.hosts.address:
                assert self._leader is not None, "rank 0 is started first"
                found["address"] = address_of_leader(self._leader, lambda run: self.standing([run])[run])
            hosts = execution.hosts.model_copy(update=found)
            execution = execution.model_copy(update={"hosts": hosts})
        recipe = self._recipe.model_copy(update={"execution": execution})
        return recipe.model_dump(mode="json", exclude_defaults=True)

    def standing(self, runs: Sequence[UUID]) -> dict[UUID, Standing]:
        """Say where runs are; one that a dead worker left behind is declared crashed."""
        found: dict[UUID, Standing] = {}
        with get_client(sync_client=True) as client:
            for first in range(0, len(runs), AT_ONCE):
                these = FlowRunFilter.model_validate({"id": {"any_": list(runs[first : first + AT_ONCE])}})
                found |= {run.id: _standing(client, run) for run in client.read_flow_runs(flow_run_filter=these)}
        gone = Standing("crashed", "the run was deleted")
        return {run: found.get(run, gone) for run in runs}

    def cancel(self, runs: Sequence[UUID]) -> None:
        """End runs; their workers stop their processes, and what waits for a worker is never begun."""
        if not runs:
            return
        with get_client(sync_client=True) as client:
            for run in runs:
                client.set_flow_run_state(run, Cancelling(message="the run that handed it out has ended"))


def _under_way(client: SyncPrefectClient, tags: list[str]) -> UUID | None:
    wanted = FlowRunFilter.model_validate({"tags": {"all_": tags}, "state": {"type": {"any_": UNDER_WAY}}})
    return next((run.id for run in client.read_flow_runs(flow_run_filter=wanted)), None)


def _standing(client: SyncPrefectClient, run: FlowRun) -> Standing:
    state = run.state
    if state is None or state.type in (StateType.SCHEDULED, StateType.PAUSED):
        return Standing("waiting")
    young = datetime.now(UTC) - state.timestamp < LONGEST_PENDING
    if state.is_crashed() and young and (state.message or "").startswith(NOT_BEGUN):
        return Standing("waiting")  # it may be slow to start, where many start at once
    if state.type is StateType.PENDING:
        if young:
            return Standing("waiting")
        message = "a worker took it and was not heard of again"
        client.set_flow_run_state(run.id, Crashed(message=message), force=True)
        return Standing("crashed", message)
    if not state.is_final():
        return Standing("working")
    message = state.message or state.name or state.type.value
    if state.is_completed():
        return Standing("completed", message)
    return Standing("crashed" if state.is_crashed() else "cancelled" if state.is_cancelled() else "failed", message)
