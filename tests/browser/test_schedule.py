"""The nightly rebuild of the fused targets, switched on in its schedule's form."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_up import Up
from prefect_pages import Pages
from prefect_run_page import RunPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
EVERY_MINUTE = "* * * * *"


@pytest.fixture
def schedule(pages: Pages) -> Iterator["Schedule"]:
    used = Schedule(pages)
    yield used
    used.switch(on=False)


class Schedule:
    """The schedule `nightly` on the page of rebuild-fused."""

    def __init__(self, pages: Pages) -> None:
        self._pages, self._page = pages, pages.page

    def open(self) -> None:
        self._pages.deployment("rebuild-fused")
        self._page.locator(".deployment-schedule-card").get_by_text("nightly").wait_for()

    @property
    def is_on(self) -> bool:
        self.open()
        return self._switch.get_attribute("aria-checked") == "true"

    @property
    def _switch(self) -> Any:
        return self._page.locator(".deployment-schedule-card").get_by_role("switch")

    def switch(self, *, on: bool) -> None:
        if self.is_on != on:
            self._switch.click()
            self._page.locator(f".deployment-schedule-card [aria-checked={str(on).lower()}]").wait_for()

    def edit(self, cron: str, values: dict[str, Any]) -> None:
        """⋮ → Edit: the time, and the recipe among the parameters that are overridden."""
        self.open()
        self._page.locator(".deployment-schedule__menu button").click()
        self._page.locator(".p-pop-over-content").get_by_text("Edit", exact=True).click()
        box = self._pages.dialog()
        box.locator(".p-label", has_text="Value").locator("input").first.fill(cron)
        if not box.get_by_text("Everything that defines the run").count():
            self._pages.choose(box.locator(".p-select").last, "recipe")
            self._page.keyboard.press("Escape")
        self._pages.form("rebuild-fused", box).fill(values)
        box.locator(".p-modal__body").evaluate("body => body.scrollTop = 0")
        self._pages.picture("schedule-edited")
        box.get_by_role("button", name="Save").click()
        box.wait_for(state="hidden")

    def next_run(self, *after: RunPage) -> RunPage:
        """Wait for a run that the schedule has started, and go to its page."""
        self.open()
        self._page.get_by_text("Upcoming", exact=True).click()
        self._pages.picture("schedule-upcoming")
        return self._pages.newest_run("rebuild-fused-tiny", *after)


def test_a_schedule_rebuilds_what_is_stale_and_then_nothing(
    finished: RunPage,
    pages: Pages,
    values: dict[str, Any],
    schedule: Schedule,
    files: Callable[[str], dict[Path, int]],
    up: Up,
) -> None:
    assert not schedule.is_on
    pages.picture("schedule-off")
    before = files("capture"), files("align"), files("fuse")
    schedule.edit(EVERY_MINUTE, values | {"recipe.fuse.rule": "min_ce"})
    schedule.switch(on=True)
    first = schedule.next_run().wait("Completed")
    first.says("ran fuse; 7 stages were up to date")
    first.picture("schedule-rebuilt")
    assert (files("capture"), files("align")) == before[:2]
    assert files("fuse").keys() > before[2].keys()

    rebuilt = files("fuse")
    second = schedule.next_run(first).wait("Completed")
    second.says("nothing to do: prepare to fuse are up to date")
    second.picture("schedule-nothing-to-do")
    assert second.seconds <= 10 and files("fuse") == rebuilt

    done = up.command("logitfuse", "deploy")  # as after an update, or as each `logitfuse up` does
    assert done.returncode == 0, done.stderr
    assert schedule.is_on
