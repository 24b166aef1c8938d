"""Prefect's settings that this project wants where the user has chosen none: nothing leaves the machine unasked.

Prefect reads its settings when it is first imported, so this module comes before it; importing it is enough.
"""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",  # the client's telemetry
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 asks a host outside for its analytics even when they are off
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",  # flows run without a server of the user's own
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 8 s on an idle machine; training nodes are not idle
}


def quiet_defaults() -> None:
    """Set what the environment does not set already."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


quiet_defaults()
