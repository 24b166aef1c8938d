"""What a dead process left behind as Running, its run's next process shows as Crashed."""

from uuid import UUID

import pytest
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.states import Running

from logitfuse.flows.dead_tasks import end_dead_tasks

pytestmark = pytest.mark.usefixtures("prefect_server")


@task
def unit() -> None:
    """Something that takes long."""


def test_only_a_run_that_was_tried_before_looks_for_tasks_that_were_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    warned: list[str] = []

    @flow
    def retried() -> None:
        with get_client(sync_client=True) as client:
            left = client.create_task_run(unit, UUID(str(runtime.flow_run.id)), dynamic_key="0", state=Running())
            for count in ("1", "2"):
                monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", count)
                end_dead_tasks(warned.append)
                state = client.read_task_run(left.id).state
                assert state is not None
                seen.append(state.type.value)

    retried()
    assert seen == ["RUNNING", "CRASHED"] and not warned


def test_outside_of_a_flow_nothing_is_asked() -> None:
    end_dead_tasks(pytest.fail)
