"""Pages for everybody: contrast as WCAG 2.2 AA wants it, in both schemes, and markup that a screen reader follows."""

import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest
from report_facts import handmade

from logitfuse.tasks.reporting.page import page
from logitfuse.tasks.reporting.palette import DARK, LIGHT, Palette, styles
from logitfuse.tasks.reporting.summary_plot import STRONGEST

TEXT, DRAWN = 4.5, 3.0  # least contrast of text, and of marks and lines that say something
VOID = {"meta", "br", "link", "hr", "img", "input"}
SCHEMES = pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])


@pytest.fixture(scope="module")
def shown() -> str:
    """A page with everything in it; drawing takes half a second."""
    return page(handmade())


def luminance(rgb: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def channels(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]


def contrast(front: list[float], back: list[float]) -> float:
    light, dark = sorted((luminance(front), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_the_standard_does() -> None:
    assert contrast(channels("#000000"), channels("#ffffff")) == pytest.approx(21)
    assert contrast(channels("#767676"), channels("#ffffff")) == pytest.approx(4.54, abs=0.01)


@SCHEMES
def test_text_can_be_read(palette: Palette) -> None:
    pairs = [(name, back) for name in ("ink", "faint", "source", "good", "bad") for back in ("paper", "card")]
    pairs += [(name, "card") for name in ("fused", "control")] + [("fused", "paper")]
    pairs += [(name, "warn") for name in ("ink", "bad")]
    found = {(n, b): contrast(channels(getattr(palette, n)), channels(getattr(palette, b))) for n, b in pairs}
    assert {pair: ratio for pair, ratio in found.items() if ratio < TEXT} == {}


@SCHEMES
def test_marks_can_be_seen(palette: Palette) -> None:
    names = ("target", "control", "fused", "source", "other", "good", "bad", "faint")
    found = {name: contrast(channels(getattr(palette, name)), channels(palette.card)) for name in names}
    assert {name: ratio for name, ratio in found.items() if ratio < DRAWN} == {}
    assert contrast(channels(palette.warn_line), channels(palette.warn)) > DRAWN


@SCHEMES
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_numbers_in_a_heat_map_can_be_read(palette: Palette, share: float) -> None:
    part = STRONGEST * share
    cell = [part * s + (1 - part) * c for s, c in zip(channels(palette.source), channels(palette.card), strict=True)]
    assert contrast(channels(palette.ink), cell) > TEXT


def test_style_sheet_and_pictures_have_the_same_colours(shown: str) -> None:
    sheet = files("logitfuse.tasks.reporting").joinpath("page.css.j2").read_text()
    light, dark = sheet.split("prefers-color-scheme: dark")
    assert styles(LIGHT) in light and styles(DARK) in dark
    assert f"calc(var(--share) * {str(STRONGEST).lstrip('0')})" in sheet
    known = {*re.findall(r"--[a-z-]+", styles(LIGHT)), "--share"}
    assert set(re.findall(r"var\((--[a-z-]+)\)", shown)) <= known


class Markup(HTMLParser):
    """Follows a page's elements as they open and close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        self.faults += [f"<{tag}> has {name} twice" for name in names if names.count(name) > 1]
        self.seen.append((tag, dict(attributes)))
        if tag == "p" and "p" in self.open:
            self.faults.append("a paragraph in a paragraph")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes what is not open")

    def all(self, wanted: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag == wanted]


def test_the_markup_is_in_order(shown: str) -> None:
    markup = Markup(shown)
    assert not markup.faults and not markup.open
    ids = [found["id"] for _, found in markup.seen if "id" in found]
    assert len(ids) == len(set(ids))
    named = [found["aria-labelledby"] for _, found in markup.seen if "aria-labelledby" in found]
    assert set(named) <= set(ids)
    headings = [int(tag[1]) for tag, _ in markup.seen if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_a_screen_reader_and_a_keyboard_reach_everything(shown: str) -> None:
    markup = Markup(shown)
    assert all(found.get("scope") for found in markup.all("th"))
    assert all(found.get("role") == "img" and found.get("aria-label") for found in markup.all("svg"))
    regions = [found for found in markup.all("div") if found.get("role") == "region"]
    assert regions and all(found["tabindex"] == "0" and found["aria-label"] for found in regions)
    assert not [found for found in markup.all("figure") if "role" in found], "its caption names it"
    assert all("role" in found or tag == "nav" for tag, found in markup.seen if "aria-label" in found)
    first = markup.all("a")[0]
    assert (
        first["class"] == "skip" and "<main>" in shown and "<nav aria-label=" in shown and '<html lang="en">' in shown
    )
    ids = {found["id"] for _, found in markup.seen if "id" in found}
    assert {(found["href"] or "")[1:] for found in markup.all("a")} <= ids
