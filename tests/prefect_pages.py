"""Prefect's pages, used as a person does: found by their menus, read, clicked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from prefect_form import Form, choose
from prefect_run_page import PATIENCE, RunPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Response, Route

CREATE = "/create_flow_run"


class Pages:
    """A browser's window on the server at `url`; what pages ask of other hosts is refused and noted."""

    def __init__(self, browser: Browser, url: str, pictures: Path) -> None:
        self.url, self._pictures = url, pictures
        self.outside: list[str] = []
        self.errors: list[str] = []
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.page.set_default_timeout(60_000)
        self.page.route("**/*", self._local_only)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._created: list[Response] = []  # what the server answered to forms that were sent
        self.page.on("response", lambda answer: self._created.append(answer) if CREATE in answer.url else None)

    def _local_only(self, route: Route) -> None:
        if route.request.url.startswith((f"{self.url}/", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def picture(self, name: str) -> None:
        """Keep what the window shows."""
        self.page.wait_for_timeout(700)  # until fonts and slides have settled
        self.page.screenshot(path=self._pictures / f"{len(os.listdir(self._pictures)):03d}-{name}.png")

    def deployment(self, name: str) -> None:
        """Go to a deployment's page, as from the menu."""
        self.page.goto(f"{self.url}/deployments")
        self.page.get_by_placeholder("Search deployments").fill(name)
        self.page.get_by_role("link", name=name, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).wait_for()

    @contextmanager
    def custom_run(self, deployment: str, picture: str = "") -> Iterator[Form]:
        """Run → Custom run: the block fills in the form, which is then sent."""
        self.deployment(deployment)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        form = self.form(deployment, self.page.locator("form"))
        yield form
        if picture:
            self.picture(picture)
        self.page.get_by_role("button", name="Submit").click()

    def form(self, deployment: str, place: Locator) -> Form:
        """Return the form of a deployment's parameters that stands in `place`."""
        place.locator(".schema-form-property").first.wait_for()
        found = httpx.get(f"{self.url}/api/deployments/name/{deployment}/{deployment}", timeout=60).json()
        return Form(self.page, place, found["parameter_openapi_schema"])

    def run(self, deployment: str, values: Mapping[str, Any], picture: str = "") -> RunPage:
        """Fill in a deployment's form, send it, and follow the link to the run."""
        with self.custom_run(deployment, picture) as form:
            form.fill(values)
        submit, sent = self.page.get_by_role("button", name="Submit"), self.page.get_by_text("View run")
        refused = self.page.get_by_text("Error creating flow run")
        for attempt in (1, 2, 3):
            sent.or_(refused).first.wait_for(timeout=1000 * PATIENCE)
            if not refused.count():
                break
            self.picture(f"not-sent-{attempt}")  # a server that was too busy: its note goes, the form stays
            said = refused.first.inner_text()
            assert "Validation" not in said, said
            refused.first.wait_for(state="hidden")
            submit.click()
        run = self._created[-1].json()["id"]
        with suppress(Exception):  # the note goes by itself; then it is found in the list of runs
            sent.last.click(timeout=3000)
        if run not in self.page.url:
            self.page.goto(f"{self.url}/runs/flow-run/{run}")
        return RunPage(self)

    def newest_run(self, name: str, *but: RunPage) -> RunPage:
        """Wait for a run of this name that has begun, but for these, and go to its page."""
        deadline = time.monotonic() + PATIENCE
        seen = {page.address for page in but}
        while time.monotonic() < deadline:
            self.page.goto(f"{self.url}/runs")
            self.page.wait_for_timeout(2000)
            for link in self.page.get_by_role("link", name=name, exact=True).all():
                address = f"{self.url}{link.get_attribute('href')}"
                if address not in seen:
                    link.click()
                    return RunPage(self)
        raise AssertionError(f"there is no new run {name} after {PATIENCE:.0f} s")

    def dialog(self) -> Locator:
        """Return the box that a click has opened over the page."""
        box = self.page.locator(".p-modal__card")
        box.wait_for()
        return box

    def choose(self, place: Locator, option: str) -> None:
        choose(self.page, place, option)
