"""Several runs that are struck at once, and what Prefect's API shows of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from crash_cases import Case
from crash_runs import FINAL, Interrupted
from crash_server import Server, wait_until
from machines import Postgres

SECONDS_TO_BEGIN, SECONDS_TO_BE_RIGHT, SECONDS_TO_COMPLETE, SECONDS_FOR_SLOTS = 600.0, 240.0, 400.0, 180.0
SOUND = ("none_lost", "none_twice", "untouched", "same_bytes")


class Struck:
    """Runs of several stages that meet the same blows, one after the other; `results` has a line for each of both."""

    def __init__(self, server: Server, runs: Sequence[Interrupted]) -> None:
        self.results: list[dict[str, Any]] = []
        self._server, self._runs = server, runs
        self._asked = time.monotonic()  # when runs were last asked for
        self._latest: list[dict[str, Any]] = []

    def begin(self, *, held: bool) -> None:
        """Start all runs."""
        for run in self._runs:
            run.prepare(held=held)
            run.start()

    def strike(self, case: Case, database: Postgres | None) -> None:
        """Wait until all are at work, strike, look on until what is shown is right, and retry what died."""
        self._wait_for(case)
        for run in self._runs:
            run.note_what_stands()
        began = time.monotonic()
        self._latest = [{"case": case.name, "stage": run.stage} for run in self._runs]
        self.results += self._latest
        case.strike(self._server, self._runs, database)
        self._watch(case, time.monotonic() if case.goes_on else began)
        self._retry()
        if case.name == "false":
            self._let_the_second_come()

    def _wait_for(self, case: Case) -> None:
        """Wait until every run is where it shall be struck; note how long that took since Retry."""
        for run in self._runs:
            ready = run.is_held if case.held else lambda run=run: run.state() in ("PENDING", "RUNNING")
            wait_until(ready, SECONDS_TO_BEGIN, f"{run.name} at work")
        if case.held:  # else it is struck before it is at work again
            self._note_again()

    def _note_again(self) -> None:
        for result in self._latest:
            if result["retried"]:
                result["again_s"] = round(time.monotonic() - self._asked, 1)

    def _watch(self, case: Case, since: float) -> None:
        """Note for each run when it is shown rightly, and all states that are shown, for as long as it must stay so."""
        for result in self._latest:
            result["shown"] = []
        while time.monotonic() - since < SECONDS_TO_BE_RIGHT:
            for run, result in zip(self._runs, self._latest, strict=True):
                state = run.state()
                if result["shown"][-1:] != [state]:
                    result["shown"].append(state)
                if state == case.right:
                    result.setdefault("right_s", round(time.monotonic() - since, 1))
                elif state != "AWAY":
                    result.pop("right_s", None)
            passed = time.monotonic() - since
            if all("right_s" in result for result in self._latest) and passed > case.stays:
                break
            time.sleep(0.5)
        for result in self._latest:
            result.setdefault("right_s", None)

    def _retry(self) -> None:
        """Press Retry where a run has ended otherwise than Completed."""
        self._asked = time.monotonic()
        for run, result in zip(self._runs, self._latest, strict=True):
            result["retried"] = run.state() in FINAL - {"COMPLETED"}
            if result["retried"]:
                run.retry()

    def _let_the_second_come(self) -> None:
        """Wait until the second process of each run has come to the unit that the first one holds."""
        for run in self._runs:
            wait_until(lambda run=run: run.state() == "RUNNING", SECONDS_TO_BEGIN, f"{run.name}'s second process")
        time.sleep(15)

    def end(self) -> None:
        """Let all runs end; note when they are Completed, when no slot is taken any more, and what is on the disk."""
        began = time.monotonic()
        completed: dict[str, float] = {}
        for run in self._runs:
            run.release()
        while time.monotonic() - began < SECONDS_TO_COMPLETE and len(completed) < len(self._runs):
            for run in self._runs:
                if run.state() == "COMPLETED":
                    completed.setdefault(run.stage, round(time.monotonic() - began, 1))
            time.sleep(0.5)
        self._note_again()
        began = time.monotonic()
        while (taken := self._server.slots()) and time.monotonic() - began < SECONDS_FOR_SLOTS:
            time.sleep(1)
        slots = {"slots_free_s": None if taken else round(time.monotonic() - began, 1), "slots_taken": taken}
        verdicts = {run.stage: run.verdict() for run in self._runs}
        for result in self.results:
            result |= {"completed_s": completed.get(result["stage"]), **verdicts[result["stage"]], **slots}
            result["ok"] = _is_sound(result)


def _is_sound(result: dict[str, Any]) -> bool:
    right = result["right_s"] is not None and result["right_s"] <= 120
    return bool(
        right
        and result["completed_s"] is not None
        and result["slots_free_s"] is not None
        and all(result[fact] for fact in SOUND)
    )
