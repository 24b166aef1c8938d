"""The automation that notices runs nobody works on any more."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.states import StateType

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

NAME = "logitfuse: a run without heartbeat has crashed"
SILENCE = timedelta(seconds=90)  # three heartbeats of PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30, which prefect.yaml sets
HEARTBEAT = "prefect.flow-run.heartbeat"
# After these a run is rightly silent. Names of states, since events are called by them.
ENDINGS = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "Paused", "Suspended", "AwaitingRetry")


def heartbeat_automation() -> AutomationCore:
    """Return the automation: 90 s without a heartbeat, and a flow run is Crashed, from where it can be retried.

    Without it a run whose process and worker were both killed would be shown as Running for ever.
    """
    trigger = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        after={HEARTBEAT},
        expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ENDINGS)},
        posture=Posture.Proactive,
        threshold=1,
        within=SILENCE,
    )
    message = f"No heartbeat for {SILENCE.seconds} s: its process or machine died. Retry goes on with what is missing."
    return AutomationCore(
        name=NAME,
        description="Marks flow runs as Crashed whose process sends no heartbeats any more; made by logitfuse.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name=None, message=message)],
    )


def put_heartbeat_automation(client: SyncPrefectClient) -> None:
    """Create the automation, or bring it up to date; one that is as it should be is left alone, with what it has seen.

    (An automation that is written anew forgets the runs it was waiting for.)
    """
    wanted = heartbeat_automation()
    found = client.read_automations_by_name(NAME)
    for extra in found[1:]:
        client.delete_automation(extra.id)
    if not found:
        client.create_automation(wanted)
    elif _meaning(found[0]) != _meaning(wanted):
        client.update_automation(found[0].id, wanted)


def _meaning(automation: AutomationCore) -> dict[str, object]:
    fields = {"name", "description", "enabled", "trigger", "actions"}
    return automation.model_dump(include=fields, exclude={"trigger": {"id"}})  # as sets, whose order means nothing
