"""What is done to the machinery while runs are at work, and what Prefect should show of them afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crash_runs import Interrupted
from crash_server import Server, wait_until
from machines import Postgres

SECONDS_AWAY = 80.0  # of a server that is not started again at once


@dataclass(frozen=True)
class Case:
    """One kind of crash; `strike` makes it happen to a server and the runs that are at work on it."""

    name: str
    title: str
    strike: Callable[[Server, Sequence[Interrupted], Postgres | None], None]
    right: str  # the state that Prefect should come to show
    stays: float = 0.0  # seconds for which it must stay so while the runs are still held
    held: bool = True  # the runs are struck in the middle of a unit, not while they start
    goes_on: bool = False  # the runs are let go at once, and so end while the machinery is not whole


def kill_flows(server: Server, runs: Sequence[Interrupted], _: Postgres | None) -> None:
    """Kill the processes of the flows."""
    for run in runs:
        os.kill(run.pid(), signal.SIGKILL)


def kill_worker(server: Server, runs: Sequence[Interrupted], _: Postgres | None) -> None:
    """Kill the worker; its flows go on."""
    server.part("worker").kill()


def stop_worker(server: Server, runs: Sequence[Interrupted], _: Postgres | None) -> None:
    """Send the worker SIGTERM, upon which it kills its flows."""
    server.part("worker").terminate()


def kill_worker_and_flows(server: Server, runs: Sequence[Interrupted], _: Postgres | None) -> None:
    """Kill the worker and all that it has started, as a power cut does."""
    server.kill("worker")


def kill_server(server: Server, runs: Sequence[Interrupted], _: Postgres | None) -> None:
    """Kill the server; `up` starts it again."""
    server.kill("server")


def server_away(server: Server, runs: Sequence[Interrupted], _: Postgres | None) -> None:
    """Kill the server and let nobody start it again for a while, in which the runs end."""
    server.signal_up(signal.SIGSTOP)
    server.kill("server")
    for run in runs:
        run.release()
    time.sleep(SECONDS_AWAY)
    server.signal_up(signal.SIGCONT)
    wait_until(server.answers, 120, "the server's return")


def restart_database(server: Server, runs: Sequence[Interrupted], database: Postgres | None) -> None:
    """Let PostgreSQL crash and start again."""
    assert database is not None, "SQLite is a part of the server"
    database.control("restart", "-m", "immediate")


def call_crashed(server: Server, runs: Sequence[Interrupted], _: Postgres | None) -> None:
    """Say that the runs have crashed, which is not so."""
    for run in runs:
        state = {"type": "CRASHED", "name": "Crashed", "message": "said wrongly"}
        server.api.send("post", f"/flow_runs/{run.flow_run}/set_state", {"state": state, "force": True})


CASES = {
    case.name: case
    for case in (
        Case("worker", "worker killed, flow goes on", kill_worker, "RUNNING", stays=10),
        Case("database", "PostgreSQL crashes and restarts", restart_database, "RUNNING", stays=45),
        Case("server", "server killed", kill_server, "RUNNING", stays=100),
        Case("away", "server gone for 80 s, run ends meanwhile", server_away, "COMPLETED", goes_on=True),
        Case("called", "nothing, but called Crashed", call_crashed, "RUNNING"),
        Case("flow", "flow killed", kill_flows, "CRASHED"),
        Case("both", "worker and flow killed", kill_worker_and_flows, "CRASHED"),
        Case("stop", "worker told to end (SIGTERM)", stop_worker, "CRASHED"),
        Case("starting", "both killed while the flow starts", kill_worker_and_flows, "CRASHED", held=False),
        Case("false", "called Crashed wrongly, second process started", call_crashed, "CRASHED"),
    )
}
# Three runs of a stage are struck: by what its process survives, by what kills it, and by what is said of it wrongly,
# by which it loses its slot of its deployment's limit, so that Prefect ends it minutes later. The last lets it end.
CHAINS = {
    "living": ("worker", "database", "server", "away"),
    "killed": ("flow", "both", "stop", "starting", "false"),
    "called": ("called",),
}
