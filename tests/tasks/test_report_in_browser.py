"""The report in a real browser: on a desk and in a hand, light and dark."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from report_facts import compared, handmade

from logitfuse.tasks.reporting.page import page

pytestmark = pytest.mark.browser
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
WIDTHS = {"desk": 1200, "hand": 420, "small": 320}


def crowded() -> dict[str, Any]:
    """Facts with many models and domains, whose names are long and have no space."""
    facts = handmade()
    long = "an-organisation/a-model-whose-name-goes-on-and-on-and-on-7b-instruct-v0.3"
    facts["results"] += [
        {**facts["results"][0], "model": f"{long}-{m}", "role": "source", "domain": f"domain-{d}-{'x' * 40}"}
        for m in range(6) for d in range(20)
    ]  # fmt: skip
    facts["gains"] += [compared("control", f"domain-{d}-{'x' * 40}", d - 10.0) for d in range(20)]
    facts["fusion"]["weights"] |= {f"{long}-{m}": 0.0 for m in range(6)}
    for row in [*facts["fusion"]["winners"]["by_place"], *facts["fusion"]["winners"]["by_domain"].values()]:
        row["won"] |= {f"{long}-{m}": 0 for m in range(6)}
    facts["fusion"]["by_domain"]["code"]["weights"] |= {f"{long}-{m}": 0.0 for m in range(6)}
    facts["target"], facts["sources"] = long, [f"{long}-{m}" for m in range(6)]
    facts["corpus"]["source"] = "/a/path" * 30
    return facts


@cache
def drawn(facts: Callable[[], dict[str, Any]]) -> str:
    """The page of these facts; drawing it is most of a test's time."""
    return page(facts())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'logitfuse[browser]'")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM}: no such browser")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("facts", [handmade, crowded])
def test_it_fits_asks_nobody_and_complains_of_nothing(
    browser: Any, tmp_path: Path, facts: Any, width: int, scheme: str
) -> None:
    (tmp_path / "report.html").write_text(drawn(facts))
    shown, asked, said = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme), [], []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.goto(f"file://{tmp_path}/report.html", wait_until="networkidle")
    shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert asked == [f"file://{tmp_path}/report.html"] and not said
    assert shown.evaluate("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 27)"
    assert dark == (scheme == "dark")
    if pictures := os.environ.get("BROWSER_PICTURES"):
        Path(pictures).mkdir(parents=True, exist_ok=True)
        shown.screenshot(path=f"{pictures}/report-{facts.__name__}-{width}-{scheme}.png", full_page=True)
    shown.close()


def test_the_answer_stands_on_the_first_screen(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(drawn(handmade))
    for width, height in ((1200, 800), (420, 860)):
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.goto(f"file://{tmp_path}/report.html")
        assert shown.locator(".answers").bounding_box()["y"] + 160 < height
        shown.close()


def test_a_keyboard_goes_through_it(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(drawn(handmade))
    shown = browser.new_page(viewport={"width": 1200, "height": 900})
    shown.goto(f"file://{tmp_path}/report.html")
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "skip"
    assert shown.locator(".skip").bounding_box()["x"] >= 0, "it is seen where the keyboard is"
    shown.keyboard.press("Enter")
    assert shown.evaluate("location.hash") == "#results"
    reached = set()
    for _ in range(60):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement.tagName"))
    assert {"A", "DIV", "SUMMARY"} <= reached
    shown.close()


@pytest.mark.parametrize("width", [420, 320])
def test_wide_tables_fold_on_a_phone_and_stay_tables(browser: Any, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(drawn(handmade))
    shown = browser.new_page(viewport={"width": width, "height": 900})
    shown.goto(f"file://{tmp_path}/report.html")
    wider = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
    assert shown.evaluate(wider) == []
    said = shown.get_by_role("table").first.aria_snapshot()
    assert 'rowheader "code 40 documents"' in said and 'cell "Fused, against the control 2.0% lower' in said
    shown.close()


# Of each grid of plots, each row's room that is left at its left and at its right, in pixels.
ROOM = """() => [...document.querySelectorAll('.pair')].flatMap(grid => {
    const whole = grid.getBoundingClientRect(), rows = {};
    for (const one of [...grid.children].map(card => card.getBoundingClientRect()))
        (rows[Math.round(one.top)] ||= []).push(one);
    return Object.values(rows).map(row => Math.max(
        Math.min(...row.map(one => one.left)) - whole.left, whole.right - Math.max(...row.map(one => one.right))));
})"""


def test_no_row_of_plots_has_a_hole(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(drawn(handmade))
    shown = browser.new_page()
    shown.goto(f"file://{tmp_path}/report.html")
    for width in (320, 680, 699, 700, 999, 1000, 1400):
        shown.set_viewport_size({"width": width, "height": 900})
        assert shown.locator(".three > figure").count() == 3 and max(shown.evaluate(ROOM)) < 1
    shown.evaluate("document.querySelector('.pair:not(.three) > figure').remove()")
    assert max(shown.evaluate(ROOM)) < 1, "nor has that of a card by itself"
    shown.close()
