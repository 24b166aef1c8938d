"""What users have set on a server's deployments, which deploying again must not undo.

`prefect deploy` puts everything back to what prefect.yaml says: a schedule that was switched on is off again, its hour
and its recipe are gone, and schedules that users added are deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitfuse.flows.form import checked_recipe
from logitfuse.flows.form_values import plain_values
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def as_users_left_them(client: SyncPrefectClient, deployments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return deployments of a prefect.yaml without what would change schedules and parameters that users have set.

    Of a deployment that is not on the server yet all stays. Parameters that this version does not take any more are
    left to what the file says.
    """
    return [_as_left(client, given) for given in deployments]


def _as_left(client: SyncPrefectClient, given: dict[str, Any]) -> dict[str, Any]:
    from prefect.exceptions import ObjectNotFound

    try:
        parameters = client.read_deployment_by_name(f"{given['name']}/{given['name']}").parameters
    except ObjectNotFound:
        return given
    kept = {name: value for name, value in given.items() if name != "schedules"}  # those it has stay as they are
    try:
        parameters = plain_values(parameters)
        checked_recipe(parameters["recipe"])
    except (BadInput, KeyError):
        return kept
    return kept | {"parameters": parameters}
