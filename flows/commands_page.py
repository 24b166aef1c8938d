"""What of docs/commands.md follows from the commands themselves: `python -m logitfuse.flows.commands_page FILE`.

It brings what stands between the page's two markers up to date; a test holds it to be so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from logitfuse.flows.exit_codes import MEANING

BEGIN, END = "<!-- made by logitfuse.flows.commands_page -->", "<!-- to here -->"
EXAMPLE = re.compile(r"Examples?:\s(.+)", re.DOTALL)


def commands() -> dict[str, Any]:
    """Return all commands by name, in the order of `logitfuse --help`."""
    from logitfuse.flows.cli import app

    return dict(getattr(get_command(app), "commands"))  # noqa: B009  # typer's own groups, or click's


def examples(help_text: str) -> list[str]:
    """Return the example calls in a command's help."""
    found = EXAMPLE.search(" ".join(help_text.split()))
    return [part.strip().rstrip(".") for part in found[1].split(" · ")] if found else []


def commands_part() -> str:
    """Return what stands between the markers: the exit codes, then a section for each command."""
    return "\n".join(
        [*_exit_codes(), *(line for name, command in commands().items() for line in _section(name, command))]
    )


def _exit_codes() -> Iterator[str]:
    yield from ("## Exit codes", "", "| Code | Name | Means |", "|---|---|---|")
    for code, meaning in MEANING.items():
        yield f"| {int(code)} | `{code.name}` | {meaning} |"
    yield ""


def _section(name: str, command: Any) -> Iterator[str]:
    text = " ".join((command.help or "").split())
    yield from (f"## logitfuse {name}", "", EXAMPLE.sub("", text).strip(), "")
    yield from ("```bash", *examples(text), "```", "", "| | |", "|---|---|")
    for parameter in command.params:
        if not getattr(parameter, "hidden", False) and parameter.name != "help":
            yield f"| {_names(parameter)} | {_plain(getattr(parameter, 'help', '') or '')} |"
    yield ""


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def renewed(page: str) -> str:
    """Return a page with what stands between its markers made anew."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{commands_part()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")
