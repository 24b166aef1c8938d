"""After all crashes: does the worker still hear that a run is to be cancelled?"""

from __future__ import annotations

from typing import Any

import psutil
from crash_runs import Interrupted
from crash_server import Server, wait_until

from logitfuse.tasks.run import Run

SECONDS = 400.0


def cancels(server: Server, whole: Run) -> list[dict[str, Any]]:
    """Cancel a run in the middle of a unit, as the UI does; return when it was shown as Cancelled, its process gone."""
    run = Interrupted(server, whole, "encode", "cancelled-encode")
    run.prepare()
    run.start()
    wait_until(run.is_held, SECONDS, "a run to cancel")
    state = {"type": "CANCELLING", "name": "Cancelling", "message": "from the UI"}
    server.api.send("post", f"/flow_runs/{run.flow_run}/set_state", {"state": state})
    result: dict[str, Any] = {"case": "cancel", "stage": "encode", "right_s": None, "ok": False}
    try:
        seconds = wait_until(lambda: run.state() == "CANCELLED" and not psutil.pid_exists(run.pid()), 120, "the end")
    except TimeoutError:
        return [result]
    return [result | {"right_s": round(seconds, 1), "ok": True}]
