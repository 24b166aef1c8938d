"""Crashes of Prefect's machinery in every stage: what is shown, does a retry complete, is a shard lost or done twice?

    python benchmarks/crashes.py --json crashes.json      # needs PostgreSQL; about 25 minutes on two cores

A `logitfuse up` with PostgreSQL (or, with --sqlite, without) gets runs of several stages at once, each in a run folder
of its own in which the stages before are done. In the middle of a unit (benchmarks/held_units) all of them are struck
alike, again and again: what kills a run is followed by Retry, and so by the next blow in the same unit. Some runs of
each stage are struck by what leaves its process alive, others by what does not. Measured for each blow: seconds
until Prefect shows what is so, and from Retry until the run is at work again. In the end: seconds until Completed and
until no slot of any limit is taken; whether records that stood were left alone, no unit was computed to its end
twice, and all shards are, byte for byte, those of a run that nothing struck.
"""

import argparse
import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crash_cancel import cancels
from crash_cases import CASES, CHAINS, Case
from crash_page import put_into_page, show
from crash_runs import STAGES, Interrupted, undisturbed
from crash_server import Server, served
from crash_thrice import dies_thrice
from crash_watch import Struck
from machines import Postgres, postgres
from measure import machine, options


def main() -> None:
    """Try the cases, print the table, write the JSON and the page."""
    arguments = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are taken away
    results = kept(arguments)
    with ExitStack() as stack:
        scratch = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="crashes-"))
        database = None if arguments.sqlite else stack.enter_context(postgres())
        whole = undisturbed(Path(scratch))
        server = stack.enter_context(served(Path(scratch), database.url if database else None))
        server.limit(list(STAGES), 2 * arguments.at_once)
        for chain, blows in CHAINS.items():
            cases = [CASES[name] for name in blows if name in arguments.cases]
            missing = [stage for stage in arguments.stages if lacks(results, cases, stage)]
            for first in range(0, len(missing), arguments.at_once):
                runs = [
                    Interrupted(server, whole, stage, f"{chain}-{stage}")
                    for stage in missing[first : first + arguments.at_once]
                ]
                results += tried(server, database, runs, cases)
                write(arguments.json, results, database is not None)
        if arguments.last:
            results += cancels(server, whole) + dies_thrice(server)
    results.sort(key=lambda result: [*CASES, "cancel", "thrice"].index(result["case"]))
    write(arguments.json, results, database is not None)
    show(results)
    if arguments.page:
        put_into_page(arguments.page, results)
    sys.exit(not all(result["ok"] for result in results))


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = options(__doc__)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--at-once", type=int, default=6, help="runs that are struck at once; each takes 0.4 GB")
    parser.add_argument("--sqlite", action="store_true", help="SQLite instead of PostgreSQL")
    parser.add_argument("--add", action="store_true", help="keep what the JSON has, and try what it lacks")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, which stays; default: a temporary one")
    parser.add_argument("--page", type=Path, help="a Markdown page to put the table into, between its marks")
    parser.add_argument("--no-last", dest="last", action="store_false", help="leave out what is tried after all others")
    given = parser.parse_args()
    if given.quick:
        given.stages, given.cases, given.last = ["encode", "train"], ["flow", "both"], False
    if given.sqlite:
        given.cases = [name for name in given.cases if name != "database"]
    return given


def kept(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the results that stand already, where they shall be kept."""
    standing = arguments.add and arguments.json and arguments.json.exists()
    found: list[dict[str, Any]] = json.loads(arguments.json.read_text())["results"] if standing else []
    return [result for result in found if result["case"] in CASES]


def lacks(results: list[dict[str, Any]], cases: list[Case], stage: str) -> bool:
    """Whether one of the cases has not been tried yet in a stage."""
    tried = {result["case"] for result in results if result["stage"] == stage}
    return any(case.name not in tried for case in cases)


def tried(
    server: Server, database: Postgres | None, runs: list[Interrupted], cases: list[Case]
) -> list[dict[str, Any]]:
    """Strike a run of each stage with some cases, one after the other, and return what became of them."""
    struck = Struck(server, runs)
    struck.begin(held=cases[0].held)
    for case in cases:
        struck.strike(case, database)
    struck.end()
    print(*(json.dumps(result) for result in struck.results), sep="\n", flush=True)
    return struck.results


def write(path: Path | None, results: list[dict[str, Any]], postgresql: bool) -> None:
    """Write what is known so far as JSON; nothing without a path."""
    if path is not None:
        facts = {"database": "PostgreSQL" if postgresql else "SQLite", "machine": machine(), "results": results}
        path.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
