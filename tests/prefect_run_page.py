"""The page of a flow run, as a person uses it."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from prefect_pages import Pages

ENDED = ("Completed", "Failed", "Crashed", "Cancelled")
PATIENCE = 900.0  # seconds, for what takes some tens on a machine that does nothing else


class RunPage:
    """The page of one flow run."""

    def __init__(self, pages: Pages) -> None:
        self._pages, self._page = pages, pages.page
        self._page.wait_for_url(re.compile("/runs/flow-run/"))
        self.address = self._page.url
        self.id = re.findall(r"[0-9a-f-]{36}", self.address)[0]

    @property
    def state(self) -> str:
        return self._page.locator(".state-badge").first.inner_text().strip()

    def open(self) -> None:
        self._page.goto(self.address)
        self._page.locator(".state-badge").first.wait_for()

    def wait(self, *states: str, but_not_yet: tuple[str, ...] = ()) -> RunPage:
        """Wait until the page shows one of these states; another one in which the run ends is an error.

        `but_not_yet`: those in which it may be still, from before.
        """
        self.open()
        deadline = time.monotonic() + PATIENCE
        while (state := self.state) not in states:
            assert state not in ENDED or state in but_not_yet, f"{state}: {self.said()}"
            assert time.monotonic() < deadline, f"still {state}: {self.said()}"
            self._page.wait_for_timeout(300)
        return self

    @property
    def _times(self) -> dict[str, Any]:
        """What the page shows only to the second, or not at all."""
        found = httpx.get(f"{self._pages.url}/api/flow_runs/{self.id}", timeout=60).raise_for_status()
        return dict(found.json())

    @property
    def seconds(self) -> float:
        """How long the run ran."""
        return float(self._times["total_run_time"])

    @property
    def began(self) -> float:
        """When the run began, as Unix time."""
        return datetime.fromisoformat(self._times["start_time"]).timestamp()

    def said(self) -> str:
        """Return all that the page's tab Logs shows."""
        self.tab("Logs")
        return self._page.locator("main, .p-layout-default, body").first.inner_text()

    def says(self, text: str) -> None:
        """Check that the page's logs show a text."""
        self.tab("Logs")
        self._page.get_by_text(text).first.wait_for()

    def tab(self, name: str) -> None:
        self._page.locator(".p-tab").get_by_text(name, exact=True).click()

    def press(self, button: str, confirmed_by: str) -> None:
        """Press a button of the page, and the one of the box that asks whether that is meant."""
        self._page.get_by_role("button", name=button, exact=True).first.click()
        self._pages.dialog().get_by_role("button", name=confirmed_by, exact=True).click()

    def picture(self, name: str) -> None:
        self._pages.picture(name)
