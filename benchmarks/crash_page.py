"""The results of crashes.py as a table, on the terminal and in a Markdown page.

python benchmarks/crash_page.py benchmarks/results/chaos-prefect.json docs/crashes.md    # the page from its numbers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from crash_cases import CASES
from crash_runs import STAGES
from crash_watch import SOUND
from rich.console import Console
from rich.table import Table

BEGIN, END = "<!-- crashes: begin -->", "<!-- crashes: end -->"
HEAD = ("What dies", "Stages", "Shown rightly after", "Retry: at work after", "Completed", "Shards sound")
TITLES = {name: case.title for name, case in CASES.items()}
LAST = {
    "cancel": "nothing, but all of this before; then a run is cancelled",
    "thrice": "server killed three times: `up` starts it again twice, then ends",
}


def show(results: list[dict[str, Any]]) -> None:
    """Print one line for each case."""
    table = Table(*HEAD)
    for row in rows(results):
        table.add_row(*row)
    Console().print(table)


def put_into_page(page: Path, results: list[dict[str, Any]]) -> None:
    """Replace what stands between the marks of a page."""
    lines = [HEAD, ("---",) * len(HEAD), *rows(results)]
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def rows(results: Iterable[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield one row for each case, over all its stages."""
    order = [*CASES, *LAST]
    placed = sorted(results, key=lambda result: order.index(result["case"]))
    for case, found in groupby(placed, lambda result: result["case"]):
        these = list(found)
        if case in LAST:
            ok = "as it should be" if these[0]["ok"] else "NOT as it should be"
            yield LAST[case], _stages(these), span(these, "right_s"), "", "", ok
            continue
        again = [result for result in these if result["retried"]]
        sound = sum(all(result[fact] for fact in SOUND) for result in these)
        yield (
            TITLES[case], _stages(these), span(these, "right_s"), _again(case, again),
            f"{sum(result['completed_s'] is not None for result in these)} of {len(these)}",
            f"{sound} of {len(these)}",
        )  # fmt: skip


def _again(case: str, retried: list[dict[str, Any]]) -> str:
    if case in ("stop", "false"):  # struck again before the new process came so far, or held up by the old one
        return "yes" if retried else "NO"
    at_work = [result for result in retried if "again_s" in result]
    return span(at_work, "again_s") if at_work else "yes" if retried else "not needed"


def _stages(these: list[dict[str, Any]]) -> str:
    return f"all {len(these)}" if len(these) == len(STAGES) else ", ".join(result["stage"] for result in these)


def span(these: list[dict[str, Any]], name: str) -> str:
    """Return the least and the most seconds; NEVER where it did not come to it."""
    values = [result.get(name) for result in these]
    known = [value for value in values if value is not None]
    never = f", NEVER in {len(values) - len(known)}" if len(known) < len(values) else ""
    if not known:
        return "NEVER"
    least, most = f"{min(known):.0f}", f"{max(known):.0f}"
    return f"{least} s{never}" if least == most else f"{least}-{most} s{never}"


if __name__ == "__main__":
    put_into_page(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text())["results"])
