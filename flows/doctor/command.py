"""`logitfuse doctor`: is everything there that runs need, and how to mend what is not?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import JsonOption
from logitfuse.flows.show import console

if TYPE_CHECKING:
    from logitfuse.flows.doctor.findings import Finding

SIGNS = {"fine": ("✓", "green"), "note": ("–", "yellow"), "broken": ("✗", "bold red")}


def doctor(
    folder: Annotated[Path, typer.Option(help="Where runs shall lie.")] = Path("runs"),
    offline: Annotated[bool, typer.Option("--offline", help="Ask nothing over the network.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the installation: Python, packages, GPU, memory, disks, Prefect's server, the model hub.

    Exit code 1 if something is broken, else 0: what is only absent, such as a GPU, is no fault. Shows no secret.
    Examples: logitfuse doctor · logitfuse doctor --offline --json
    """
    found: list[Finding] = []
    for finding in findings(folder, ask=not offline):
        found.append(finding)
        if not as_json:
            _show(finding, first=len(found) == 1 or found[-2].group != finding.group)
    broken = [finding for finding in found if finding.state == "broken"]
    if as_json:
        answer(facts(found))
    else:
        console.print(_summary(found), highlight=False)
    if broken:
        raise typer.Exit(ExitCode.ANSWERED_NO)


def findings(folder: Path, *, ask: bool) -> Iterator[Finding]:
    """Yield everything that is looked at, as it is found."""
    from logitfuse.flows.doctor.machine import check_disks, check_gpu, check_machine
    from logitfuse.flows.doctor.packages import check_packages

    yield from check_packages()
    yield from check_gpu()
    yield from check_machine()
    yield from check_disks(folder)
    from logitfuse.flows.doctor.network import check_hub, check_prefect

    yield from check_prefect(ask=ask)
    yield from check_hub(ask=ask)


def facts(found: Sequence[Finding]) -> dict[str, Any]:
    """Return plain JSON values."""
    return {"ok": all(one.state != "broken" for one in found), "checks": [one.facts() for one in found]}


def _show(finding: Finding, *, first: bool) -> None:
    if first:
        console.print(Text(finding.group, style="bold"))
    sign, style = SIGNS[finding.state]
    console.tell(Text.assemble((f"  {sign} ", style), f"{finding.name}: {finding.found}"), hang=4)
    if finding.mend:
        console.tell(Text(f"      {finding.mend}", style="dim" if finding.state == "note" else ""), hang=6)


def _summary(found: Sequence[Finding]) -> Text:
    broken = sum(finding.state == "broken" for finding in found)
    if broken:
        return Text(f"{broken} broken: mend {'it' if broken == 1 else 'them'} as said above.", style="bold red")
    return Text("Nothing is broken. Try it: logitfuse run demo", style="green")
