"""What `logitfuse up` says."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from rich.text import Text

from logitfuse.flows.show import console
from logitfuse.flows.up.database import Database
from logitfuse.flows.up.place import CLIENT_AUTH, SERVER_AUTH, Place
from logitfuse.flows.up.record import Record
from logitfuse.tasks.reporting.formats import moment


def say(line: str | Text = "") -> None:
    """Print a line; a terminal that is gone is no reason to end."""
    with suppress(OSError):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def event(line: str) -> None:
    """Print a line with the time."""
    say(Text.assemble((f"{moment(time.time())}  ", "dim"), line))


def starting(place: Place, database: Database | None, left: Record | None) -> None:
    """Say what is about to be started, and where it lies."""
    if left is not None:
        say(f"The last `logitfuse up` here (process {left.pid}) was killed; this one takes over what it left.")
    store = f"{database}; logs in {_short(place)}" if database else f"state and logs in {_short(place)}"
    say(f"Starting Prefect for {place.folder} ({store}).")


def done(what: str, seconds: float) -> None:
    """Say that one of the parts is there."""
    say(Text.assemble("  ", ("✓ ", "green"), f"{what} ", (f"{seconds:.0f} s", "dim")))


def ready(place: Place, page: str, *, worker: bool) -> None:
    """Say what to do now; `page` is where the pipeline is started in a browser."""
    say()
    say(Text.assemble("Prefect is up: ", (place.url, "bold")))
    say(f"  In a browser: {page} → Run → Custom run")
    say("  In another terminal:")
    say(f"      export PREFECT_API_URL={place.api}")
    if SERVER_AUTH in os.environ:
        say(f"      export {CLIENT_AUTH}=…             # as {SERVER_AUTH} here")
    say("      logitfuse submit demo          # or a recipe of your own")
    if not worker:
        say("  No worker runs here; on each machine that shall work: prefect worker start --pool logitfuse")
    say("Ctrl-C stops all of it; what is done stays done. Runs are told below.")
    say()


def found(first: Record) -> None:
    """Say where the `up` of this folder is already."""
    say(Text.assemble("Prefect is up already: ", (first.url, "bold"), f" (process {first.pid} on {first.host})"))
    say(f"  export PREFECT_API_URL={first.api}")
    say(f"To stop it: Ctrl-C in its terminal, or kill {first.pid}. Options given now change nothing.")


def stopping(how: str, runs: int) -> None:
    """Say that it ends, and what that does to what runs."""
    running = {0: "", 1: "; one run is interrupted"}.get(runs, f"; {runs} runs are interrupted")
    say(f"\nStopping ({how}){running} … once more: at once.")


def stopped(place: Place) -> None:
    """Say that it is over."""
    say("Stopped. What the runs finished is kept; `logitfuse up` and Retry, or a new run, go on from there.")


def _short(place: Place) -> str:
    return os.path.relpath(place.home) if place.home.is_relative_to(place.folder) else str(place.home)
