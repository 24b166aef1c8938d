"""Training over several hosts: the run of rank 0 says in a label where it is, for the runs of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.training.hosts import own_address

if TYPE_CHECKING:
    from logitfuse.flows.hand_out import Standing

LABEL = "logitfuse.address"
SECONDS_BETWEEN_LOOKS = 1.0


def leading(recipe: Recipe) -> Recipe:
    """Return the recipe with this host's address, and label the present run with it, if it is rank 0 of several."""
    hosts = recipe.execution.hosts
    context = FlowRunContext.get()
    if hosts.count == 1 or hosts.rank or hosts.address or hosts.given_by != "settings" or context is None:
        return recipe
    address = own_address(urlsplit(PREFECT_API_URL.value() or "").hostname)
    if context.flow_run is not None:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(context.flow_run.id, {LABEL: address})
    hosts = hosts.model_copy(update={"address": address})
    return recipe.model_copy(update={"execution": recipe.execution.model_copy(update={"hosts": hosts})})


def address_of_leader(leader: UUID, standing: Callable[[UUID], Standing]) -> str:
    """Wait until the run of rank 0 has said where it is, and return that.

    Raises `WorkFailed` if it ends before.
    """
    while True:
        now = standing(leader)
        if now.state not in ("waiting", "working"):
            raise WorkFailed(f"the run of host 0 ended before the others were started: {now.message}")
        with get_client(sync_client=True) as client:
            address = client.read_flow_run(leader).labels.get(LABEL)
        if now.state == "working" and address:
            return str(address)
        time.sleep(SECONDS_BETWEEN_LOOKS)
