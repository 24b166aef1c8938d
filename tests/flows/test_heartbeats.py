"""The automations that notice dead runs, and what a flow that hands out makes of the runs they ended."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import EventTrigger
from prefect.states import Crashed, Pending, State

from logitfuse.flows.deployment_runs import LONGEST_PENDING, _standing
from logitfuse.flows.heartbeats import HEARTBEAT, NOT_BEGUN, heartbeat_automation, pending_automation


class Client:
    """Remembers the states that were set."""

    def __init__(self) -> None:
        self.set: list[State] = []

    def set_flow_run_state(self, run: Any, state: State, force: bool = False) -> None:
        self.set.append(state)


def run_in(state: State, age: timedelta) -> FlowRun:
    aged = state.model_copy(update={"timestamp": datetime.now(UTC) - age})
    return FlowRun(flow_id=uuid4(), state=aged)


def test_both_act_within_two_minutes_and_stop_waiting_once_a_run_begins() -> None:
    for automation in (heartbeat_automation(), pending_automation()):
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.trigger.within <= timedelta(seconds=110), "Prefect looks each five seconds"
        assert {HEARTBEAT, "prefect.flow-run.Completed", "prefect.flow-run.Crashed"} <= automation.trigger.expect
    assert isinstance(automation.trigger, EventTrigger)
    for begins in ("Running", "AwaitingConcurrencySlot", "Scheduled", "Cancelled"):
        assert f"prefect.flow-run.{begins}" in automation.trigger.expect


def test_a_run_that_did_not_begin_in_time_may_only_be_slow_for_whom_it_was_handed_out() -> None:
    client: Any = Client()
    late = run_in(Crashed(message=f"{NOT_BEGUN} 100 s: its worker or machine died."), timedelta(seconds=30))
    assert _standing(client, late).state == "waiting"
    dead = run_in(Crashed(message=late.state.message), LONGEST_PENDING)  # type: ignore[union-attr]
    assert _standing(client, dead).state == "crashed"
    assert _standing(client, run_in(Crashed(message="killed"), timedelta(seconds=1))).state == "crashed"
    assert _standing(client, run_in(Pending(), timedelta(seconds=200))).state == "waiting" and not client.set
    assert _standing(client, run_in(Pending(), LONGEST_PENDING)).state == "crashed" and client.set[0].is_crashed()
