"""README and docs hold what is true: commands that exist, links that lead somewhere, settings as they are declared."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from documented import PAGES, ROOT, arguments_of, lines_to_type

from logitfuse.flows.cli import app

TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
GROUP = typer.main.get_command(app)


COMMANDS = sorted({(page.name, line) for page in PAGES for line in lines_to_type(page)})
OURS = [(page, line) for page, line in COMMANDS if re.match(r"(\S*/)?logitfuse ", line)]
MADE = [(page, line) for page, line in COMMANDS if line.startswith("make ")]


@pytest.mark.parametrize(("page", "line"), OURS)
def test_every_command_has_the_options_that_it_is_shown_with(page: str, line: str) -> None:
    given = arguments_of(line)
    if given == ["--help"]:
        return
    command = GROUP.commands[given[0]]
    command.make_context(given[0], given[1:])  # raises what a user would be told


@pytest.mark.parametrize(("page", "line"), MADE)
def test_every_make_target_exists(page: str, line: str) -> None:
    targets = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
    assert set(targets) <= set(TARGETS)


def anchors(page: Path) -> set[str]:
    """Return what a page's headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_recipe_reference_is_what_the_settings_say() -> None:
    command = [sys.executable, str(ROOT / "docs" / "recipe_reference.py"), "--check"]
    assert subprocess.run(command).returncode == 0, "run: make docs"


def test_every_page_is_in_the_sites_contents() -> None:
    listed = set(re.findall(r"^([a-z-]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index", "results.words"}
    assert pages == listed
