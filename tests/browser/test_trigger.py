"""Starting runs from Prefect's pages: filled in, refused, from a stage on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect_pages import Pages
from prefect_run_page import RunPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]


def test_a_form_that_is_filled_in_becomes_a_finished_run(finished: RunPage, project: Path) -> None:
    finished.says("ran prepare, encode, check, capture, map, align, fuse, headroom, train, evaluate, report")
    run = project / "runs" / "tiny"
    for stage in ("prepare", "encode", "capture", "align", "fuse"):
        assert list(run.glob(f"{stage}/**/part-*.parquet")), stage
    assert (run / "report.html").exists()
    for tab in ("Subflow Runs", "Artifacts", "Parameters", "Details"):
        finished.tab(tab)
        finished.picture(f"pipeline-{tab.replace(' ', '-').lower()}")


def test_the_plan_is_a_page_of_the_run(finished: RunPage, pages: Pages) -> None:
    finished.open()
    finished.tab("Artifacts")
    pages.page.get_by_text("tiny-plan").first.click()
    for heading in ("The text", "The stages", "Memory of a device"):
        pages.page.get_by_role("heading", name=heading).wait_for()
    pages.picture("plan")
    assert pages.page.get_by_role("cell", name="capture").first.is_visible()
    pages.page.get_by_role("heading", name="Memory of a device").scroll_into_view_if_needed()
    pages.picture("plan-below")


def test_a_value_out_of_range_is_refused_in_the_form(pages: Pages) -> None:
    with pages.custom_run("pipeline") as form:
        form.fill({"recipe.name": "refused", "recipe.capture.k": 0})
    note = pages.page.get_by_text("Validation failed for field 'recipe.capture.k'").first
    note.wait_for()
    pages.picture("refused-in-the-form")
    assert "0 is less than the minimum of 1" in note.inner_text()
    assert pages.page.url.partition("?")[0].endswith("/run")  # the form stays, as it was filled in


def test_settings_that_do_not_fit_are_refused_when_the_run_starts(pages: Pages, values: dict[str, Any]) -> None:
    page = pages.run("pipeline", values | {"recipe.name": "refused", "recipe.capture.k": 400}).wait("Failed")
    page.says("capture.k")
    page.picture("refused-by-the-run")
    assert "400 is more than the 300 tokens of" in page.said() and "Traceback" not in page.said()
    assert page.seconds <= 10  # one of them for the refusal itself, on a machine that does nothing else


def test_start_at_leaves_out_what_comes_before(
    finished: RunPage, pages: Pages, values: dict[str, Any], files: Callable[[str], dict[Path, int]]
) -> None:
    before = files("capture"), files("align"), files("fuse")
    values = values | {"start_at": "fuse", "stop_after": "fuse", "recipe.fuse.rule": "avg_ce"}
    page = pages.run("pipeline", values, picture="form-start-at").wait("Completed")
    page.says("Completed('ran fuse')")
    assert (files("capture"), files("align")) == before[:2]
    assert files("fuse").keys() > before[2].keys()


def test_pages_ask_nothing_outside_this_machine(pages: Pages) -> None:
    for place in ("dashboard", "runs", "flows", "deployments", "work-pools", "automations", "events", "settings"):
        pages.page.goto(f"{pages.url}/{place}")
        pages.page.wait_for_timeout(1500)
        assert not pages.outside and not pages.errors, place
