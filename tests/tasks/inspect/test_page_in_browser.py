"""The page in a real browser: it opens without network, answers keys and pointer, and stays usable when it is long."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from done_runs import done_run
from inspected_runs import LONG, TO_FUSE, recipe_content

from logitfuse.tasks.inspect.documents import find_document, first_document, fused_shards
from logitfuse.tasks.inspect.inspector import Inspector
from logitfuse.tasks.inspect.page import page as inspect_page

pytestmark = pytest.mark.browser
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
TOKENS, MOST_BYTES, MOST_SECONDS = 2048, 4e6, 10.0


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A long document, made longer still, and a short one."""
    run = done_run(recipe_content(tmp_path_factory.mktemp("shown"), capture={"k": 10}), TO_FUSE)
    inspector, shards = Inspector(run, models=False), fused_shards(run)
    long = inspector.document(find_document(run, LONG, shards), most=TOKENS, every=True)
    times = TOKENS // len(long["tokens"]) + 1
    for name in ("tokens", "positions"):
        long[name] = (long[name] * times)[:TOKENS]
    return [long, inspector.document(first_document(run, shards), every=True) | {"note": "+1.00 nats"}]


@pytest.fixture
def shown(documents: list[dict[str, Any]], tmp_path: Path) -> Iterator[Any]:
    """The opened page; afterwards nothing may have been asked of anybody, and no script may have failed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'logitfuse[browser]'")
    file = tmp_path / "page.html"
    file.write_text(inspect_page(documents))
    assert file.stat().st_size < MOST_BYTES
    said: list[str] = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
        began = time.monotonic()
        page.goto(file.as_uri())
        page.wait_for_selector("#said:not(:empty)")
        assert time.monotonic() - began < MOST_SECONDS
        yield page
        browser.close()
    assert not said


def chosen(page: Any) -> int:
    (number,) = page.evaluate(
        "[...document.querySelectorAll('#tokens [aria-selected=true]')].map(t => Number(t.id.slice(1)))"
    )
    assert page.get_attribute("#tokens", "aria-activedescendant") == f"t{number}"
    return int(number)


def test_arrow_keys_move_from_token_to_token(shown: Any) -> None:
    assert shown.locator("#tokens span").count() == TOKENS
    shown.focus("#tokens")
    outline = shown.evaluate("getComputedStyle(document.getElementById('tokens')).outlineStyle")
    shown.keyboard.press("Home")
    assert chosen(shown) == 0 and outline != "none"
    for _ in range(5):
        shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowLeft")
    assert chosen(shown) == 4 and "token 4," in shown.inner_text("#said")
    shown.keyboard.press("ArrowDown")
    below = chosen(shown)
    shown.keyboard.press("ArrowUp")
    assert below > 10 and chosen(shown) < 10
    began = time.monotonic()
    shown.keyboard.press("End")
    assert chosen(shown) == TOKENS - 1 and time.monotonic() - began < 2
    box, token = (shown.locator(name).bounding_box() for name in ("#tokens", f"#t{TOKENS - 1}"))
    assert box["y"] <= token["y"] <= box["y"] + box["height"], "the chosen token is scrolled to"


def test_pointing_looks_and_clicking_stays(shown: Any) -> None:
    shown.keyboard.press("Tab")
    before = shown.inner_text("#said")
    other = shown.locator(f"#t{chosen(shown) + 3}")
    other.hover()
    assert shown.inner_text("#said") != before
    shown.hover("#name")
    assert shown.inner_text("#said") == before
    other.click()
    shown.hover("#name")
    assert shown.inner_text("#said") != before


def test_colours_and_documents_can_be_chosen(shown: Any) -> None:
    kinds = "[...new Set([...document.querySelectorAll('#tokens span')].flatMap(t => [...t.classList]))].join(' ')"
    assert "s1" in shown.evaluate(kinds) or "s2" in shown.evaluate(kinds)
    shown.get_by_label("targets against before").check()
    assert {"b1", "g1"} & set(shown.evaluate(kinds).split())
    shown.locator("#documents button").nth(1).click()
    assert "+1.00 nats" in shown.inner_text("#about") and shown.locator("#tokens span").count() < 600
    assert {"Fused target", "Student before", "Its own tokens", "Added up"} <= set(
        shown.inner_text("#more").splitlines()
    )


def test_everything_can_be_reached_and_nothing_is_wider_than_a_phone(shown: Any) -> None:
    shown.set_viewport_size({"width": 420, "height": 900})
    assert shown.evaluate("document.documentElement.scrollWidth") == 420
    reached = set()
    for _ in range(8):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"BUTTON", "INPUT", "tokens"} <= reached
