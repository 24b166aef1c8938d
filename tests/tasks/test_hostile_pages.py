"""A corpus, tokens, model and folders full of HTML and scripts: every page shows them, and none of it does anything."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from done_runs import done_run
from tiny_models import WORDS, tiny_model

from logitfuse.flows.result_artifacts import result_text
from logitfuse.tasks.alignment_report.facts import Method, gather
from logitfuse.tasks.alignment_report.page import page as alignment_page
from logitfuse.tasks.alignment_report.sample import read_sample
from logitfuse.tasks.alignment_report.tokenizers import read_tokenizer
from logitfuse.tasks.inspect.documents import find_document, fused_shards
from logitfuse.tasks.inspect.inspector import Inspector
from logitfuse.tasks.inspect.page import page as inspect_page
from logitfuse.tasks.markdown_text import fenced, plain
from logitfuse.tasks.report import report_page
from logitfuse.tasks.results import MEAN
from logitfuse.tasks.study.page import study_section
from logitfuse.tasks.study.page_tables import loss_table

OUTSIDE = "http://outside.invalid/x"
# Ways to run something: by itself, out of an attribute, out of a style, out of SVG, out of a fence of Markdown.
EVIL = [
    f"<script>fetch('{OUTSIDE}');window.owned=1</script>",
    f'"><img src="{OUTSIDE}" onerror="window.owned=1">',
    f"</style></svg></pre><svg onload=window.owned=1><image href='{OUTSIDE}'/></svg>",
    f"\n```\n[a](javascript:window.owned=1) ![b]({OUTSIDE}) <iframe src='{OUTSIDE}'></iframe>",
    "{{ 7*7 }}{% raw %}${window.owned=1}&lt;script&gt;",
]
ALLOWED_ATTRIBUTES = {"href"}  # of links within the page
LOADING = {"script", "iframe", "img", "image", "object", "embed", "link", "base", "form", "video", "audio", "source"}


class Markup(HTMLParser):
    """The tags of a page that load or run something, and attributes that do."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in LOADING:
            self.found.append(tag)
        for name, value in attributes:
            outside = name in ("src", "href", "xlink:href", "action") and not (value or "").startswith("#")
            if name.startswith("on") or outside:
                self.found.append(f"{tag} {name}={value}")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every page and text that a run full of it makes, by name."""
    root = tmp_path_factory.mktemp("hostile")
    first, second = tiny_model(root / "first", 300, seed=1), tiny_model(root / "second", 320, seed=2)
    evil_name = '"><img src=x onerror=alert(1)>'
    second = second.rename(root / evil_name)
    (second / "README.md").write_text(f"---\nlicense: {json.dumps(EVIL[0])}\n---\n")
    _say_in_tokens(second / "tokenizer.json")
    corpus = root / '<b onclick="x">.jsonl'
    rows = [
        {"id": f"{EVIL[n % 5]}{n}", "domain": EVIL[n % 5], "text": f"{' '.join(WORDS[:9])} {n} {EVIL[n % 5]}"}
        for n in range(40)
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = done_run({
        "name": "hostile", "target": {"model": str(first), "dtype": "float32"},
        "sources": [{"model": str(second), "dtype": "float32"}],
        "corpus": {"source": str(corpus), "id_column": "id", "held_out_share": 0.4, "near_duplicate_overlap": None},
        "check": {"nats_per_byte": None, "unknown_ends": 1.0}, "capture": {"k": 4},
        "train": {"dtype": "fp32", "sequence_length": 128, "max_steps": 2},
        "execution": {"folder": str(root / "runs"), "min_free_gb": 0, "device": "cpu"},
    })  # fmt: skip
    report = report_page(run)
    facts = json.loads(report.with_suffix(".json").read_text())
    names = [read_tokenizer(str(folder)) for folder in (second, first)]
    aligned = gather(*names, read_sample([str(corpus)], 100_000), [Method("offsets", "first_piece")])
    looked_at = [find_document(run, rows[n]["id"], fused_shards(run)) for n in range(5)]
    inspected = inspect_page([Inspector(run).document(place, every=True) for place in looked_at])
    cards = list((root / "runs").rglob("README.md"))
    assert cards, "each trained model has a card"
    return {
        "report": report.read_text(), "alignment": alignment_page(aligned),
        "inspect": inspected,
        "result.md": result_text(facts, report), "card.md": cards[0].read_text(),
    }  # fmt: skip


def _say_in_tokens(file: Path) -> None:
    """Add tokens that are HTML."""
    spec = json.loads(file.read_text())
    last = max(spec["model"]["vocab"].values())
    for number, text in enumerate(EVIL, last - len(EVIL) + 1):
        piece = next(piece for piece, token in spec["model"]["vocab"].items() if token == number)
        spec["added_tokens"].append({
            "id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False,
        })  # fmt: skip
        spec["model"]["merges"] = [merge for merge in spec["model"]["merges"] if "".join(merge) != piece]
        del spec["model"]["vocab"][piece]
    file.write_text(json.dumps(spec))


@pytest.mark.parametrize("name", ["report", "alignment"])
def test_pages_hold_no_markup_of_the_data(pages: dict[str, str], name: str) -> None:
    assert not Markup(pages[name]).found
    assert "&lt;script&gt;" in pages[name] or "&lt;img" in pages[name], "what the data say is shown"


def test_a_page_with_a_script_holds_its_own_alone(pages: dict[str, str]) -> None:
    assert Markup(pages["inspect"]).found == ["script", "script"], "its data, and what shows them"
    data = pages["inspect"].split('id="data">')[1].split("</script>")[0]
    assert not {"<", ">", "&"} & set(data) and "\\u003cscript\\u003e" in data, "what the data say is shown"


@pytest.mark.parametrize("name", ["result.md", "card.md"])
def test_markdown_holds_no_markup_of_the_data(pages: dict[str, str], name: str) -> None:
    rest = pages[name].partition("\n---\n")[2] if name == "card.md" else pages[name]  # without its front matter
    blocks = rest.split("```")
    outside = "".join(blocks[::2])
    assert len(blocks) % 2 == 1 and not Markup(outside).found
    assert not re.findall(r"^.*(?<!\\)\]\(.*$", outside, re.MULTILINE)


def test_text_in_markdown_is_shown_as_it_is() -> None:
    assert plain("a|b\n<i>_c_</i> [d](e) `f`") == "a\\|b &lt;i&gt;\\_c\\_&lt;/i&gt; \\[d\\](e) \\`f\\`"
    assert fenced("a: |\n  ````\n", "yaml").startswith("`````yaml\n")


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright, and a Chromium")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        options += ["--disable-background-networking", "--disable-component-update"]
        opened = running.chromium.launch(executable_path=program, args=options)
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Any, tmp_path: Path) -> Callable[[str], tuple[list[str], Any]]:
    """Open a page's text in the browser; return what it asked of anybody, and whether any of it ran."""

    def opened(text: str) -> tuple[list[str], Any]:
        (tmp_path / "page.html").write_text(text)
        page, asked = browser.new_page(), []
        page.route("**/*", lambda route: (asked.append(route.request.url), route.continue_())[1])
        page.on("dialog", lambda dialog: (asked.append(f"dialog {dialog.message}"), dialog.dismiss())[1])
        page.goto(f"file://{tmp_path}/page.html", wait_until="networkidle")
        ran = page.evaluate("window.owned")
        page.close()
        return [url for url in asked if not url.startswith("file://")], ran

    return opened


@pytest.mark.browser
@pytest.mark.parametrize("name", ["report", "alignment", "inspect"])
def test_in_a_browser_nothing_runs_and_nothing_is_asked_of_anybody(
    pages: dict[str, str], look: Callable[[str], tuple[list[str], Any]], name: str
) -> None:
    assert look(pages[name]) == ([], None)


@pytest.mark.browser
def test_the_browser_would_have_told(look: Callable[[str], tuple[list[str], Any]]) -> None:
    asked, ran = look(f"<p>{EVIL[0]}{EVIL[1]}</p>")
    assert asked and ran == 1


def test_a_results_page_holds_no_markup_of_the_data() -> None:
    runs = [
        {"variant": name, "nats_per_byte": {MEAN: 1.0} | dict.fromkeys(EVIL, 1.0), "settings": {name: name},
         "tokens": 1, "seed": 1, "about": name, "seconds": {name: 1.0}, "notes": [name]}
        for name in EVIL
    ]  # fmt: skip
    said = dict.fromkeys(["study", "about", "split", "hardware", "recipe"], "".join(EVIL))
    lists = {"missing": EVIL, "contrasts": [], "gaps": [], "headroom": [], "locked": None, "token_multiple": None}
    page = "\n\n".join(study_section({**said, **lists, "runs": runs, "scale": 1, "seeds": [1], "python": "3"}))
    assert not Markup(page).found and "](" not in page and "&lt;script&gt;" in page
    table = loss_table({"split": "test", "runs": runs})
    assert {line.replace("\\|", "").count("|") for line in table.splitlines()} == {3 + len(EVIL)}
