"""Tasks that a process left behind as Running when it died are shown as Crashed once its run goes on in another."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from prefect.states import Crashed

MESSAGE = "The process that did it died; its run was retried."


def end_dead_tasks(warn: Callable[[str], None]) -> None:
    """Look for them if this flow run has been tried before; what cannot be put right stays, and `warn` is told.

    One that an earlier process is still at, which was called Crashed wrongly, is shown rightly again when it ends.
    """
    run = runtime.flow_run.id
    if run is None or (runtime.flow_run.run_count or 1) < 2:
        return
    of_run = FlowRunFilter.model_validate({"id": {"any_": [UUID(str(run))]}})
    living = TaskRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}})
    try:
        with get_client(sync_client=True) as client:
            for left in client.read_task_runs(flow_run_filter=of_run, task_run_filter=living):
                client.set_task_run_state(left.id, Crashed(message=MESSAGE), force=True)
    except (httpx.HTTPError, PrefectException) as error:
        warn(f"tasks of an earlier attempt may be shown as Running: {error}")
