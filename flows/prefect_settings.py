"""Prefect's settings that this project wants where the user has chosen none: nothing leaves the machine unasked.

Prefect reads its settings when it is first imported, so this module comes before it; importing it is enough.
"""

import os
import sys

from logitfuse.storage.errors import BadInput, without_passwords

DEFAULTS = {
    "DO_NOT_TRACK": "1",  # the client's telemetry
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 asks a host outside for its analytics even when they are off
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",  # flows run without a server of the user's own
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 8 s on an idle machine; training nodes are not idle
}


MEND = "Correct it in the environment or in Prefect's profile (`prefect config view` shows both), or unset it."


def refused_setting(error: BaseException) -> BadInput | None:
    """Return in words which of Prefect's settings holds what it cannot; None if that is not what the error is.

    Each of Prefect's groups of settings raises an error of its own, wherever Prefect is first imported.
    """
    prefix = _prefix(getattr(error, "title", ""))
    if prefix is None or not hasattr(error, "errors"):
        return None
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = prefix + "_".join(str(part) for part in first["loc"]).upper()
    where = f"Prefect's setting {name}" if first["loc"] else "Prefect's settings"
    return BadInput(without_passwords(f"{where}: {first['msg']}. {MEND}"))


def _prefix(group: str) -> str | None:
    """Return what the variables of one of Prefect's groups of settings begin with; None if it is none."""
    base = sys.modules.get("prefect.settings.base")
    known = [base.PrefectBaseSettings] if base else []
    for settings in known:
        if settings.__name__ == group:
            return str(settings.model_config.get("env_prefix", ""))
        known.extend(settings.__subclasses__())
    return None


def quiet_defaults() -> None:
    """Set what the environment does not set already."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


quiet_defaults()
