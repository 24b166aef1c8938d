"""What README and docs show: their pages, and the command lines in their shell blocks."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines_to_type(page: Path) -> Iterator[str]:
    """Yield the command lines of a page's shell blocks, continued lines joined."""
    for block in re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (part.strip() for part in line.removeprefix("$ ").split(" && "))


def arguments_of(line: str) -> list[str]:
    """Return what follows the program's name, without comments, pipes and files that the output goes to."""
    return shlex.split(line.partition(" > ")[0].partition(" | ")[0].removesuffix("&"), comments=True)[1:]
