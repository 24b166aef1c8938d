"""The automations that notice runs nobody works on any more."""

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
HEARTBEAT, PENDING = "prefect.flow-run.heartbeat", "prefect.flow-run.Pending"
# After these a run is rightly silent. Names of states, since events are called by them.
ENDINGS = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "Paused", "Suspended", "AwaitingRetry")

NAME_OF_PENDING = "logitfuse: a run that does not begin has crashed"
LONGEST_START = timedelta(seconds=100)  # a worker takes a run, 10 s later it begins; later where all is busy
NOT_BEGUN = "A worker took it, and it did not begin within"
# What comes after Pending, however it goes on.
BEGINNINGS = ("Running", "Retrying", "Scheduled", "Late", "AwaitingConcurrencySlot", "Cancelling", "Cached")


def heartbeat_automation() -> AutomationCore:
    """Return the automation: 90 s without a heartbeat, and a flow run is Crashed, from where it can be retried.

    Without it a run whose process and worker were both killed would be shown as Running for ever.
    """
    return _crashed_unless_followed(
        name=NAME,
        description="Marks flow runs as Crashed whose process sends no heartbeats any more; made by logitfuse.",
        after=HEARTBEAT,
        by=ENDINGS,
        within=SILENCE,
        message=f"No heartbeat for {SILENCE.seconds} s: its process or machine died. "
        "Retry goes on with what is missing.",
    )


def pending_automation() -> AutomationCore:
    """Return the automation: a run that a worker took and that does not begin is Crashed, from where it can be retried.

    Without it a run whose worker died while starting it would be shown as Pending for ever. One that is only slow to
    start is shown as Running as soon as it begins. What waits for a slot of a limit is not Pending.
    """
    return _crashed_unless_followed(
        name=NAME_OF_PENDING,
        description="Marks flow runs as Crashed that a worker took and that did not begin; made by logitfuse.",
        after=PENDING,
        by=ENDINGS + BEGINNINGS,
        within=LONGEST_START,
        message=f"{NOT_BEGUN} {LONGEST_START.seconds} s: its worker or machine died. Retry starts it again.",
    )


def _crashed_unless_followed(
    *, name: str, description: str, after: str, by: tuple[str, ...], within: timedelta, message: str
) -> AutomationCore:
    """Return the automation: a flow run of which nothing is heard in time after an event is Crashed.

    What counts is the same event again, which begins the wait anew, a heartbeat, and the states named in `by`.
    """
    trigger = EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        after={after},
        expect={after, HEARTBEAT, *(f"prefect.flow-run.{state}" for state in by)},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )
    crashed = ChangeFlowRunState(state=StateType.CRASHED, name=None, message=message)
    return AutomationCore(name=name, description=description, trigger=trigger, actions=[crashed])


def put_automations(client: SyncPrefectClient) -> None:
    """Create the automations, or bring them up to date."""
    for wanted in (heartbeat_automation(), pending_automation()):
        _put(client, wanted)


def _put(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create or update one; one that is as it should be is left alone, with what it has seen.

    (An automation that is written anew forgets the runs it was waiting for.)
    """
    found = client.read_automations_by_name(wanted.name)
    for extra in found[1:]:
        client.delete_automation(extra.id)
    if not found:
        client.create_automation(wanted)
    elif _meaning(found[0]) != _meaning(wanted):
        client.update_automation(found[0].id, wanted)


def _meaning(automation: AutomationCore) -> dict[str, object]:
    fields = {"name", "description", "enabled", "trigger", "actions"}
    return automation.model_dump(include=fields, exclude={"trigger": {"id"}})  # as sets, whose order means nothing
