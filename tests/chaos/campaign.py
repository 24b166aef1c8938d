"""Kill runs at random moments until they are done, and compare what they publish with an undisturbed run's.

    make chaos                                             # 200 kills, about half an hour on two cores
    python tests/chaos/campaign.py --kills 1000 --minutes 240 --seed 7 --json chaos.json

Runs of all stages, over and over: alone, two processes on one run folder, and stages that are redone. Exit code 1 if a
single byte differs, a run cannot be finished, `verify` finds a fault, or scratch is left.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from runs_under_fire import Disturbed, Forks, undisturbed

WAYS = ("alone", "alone", "two at once", "redone")


def main() -> int:
    """Run the campaign and print what it met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="end once so many processes were killed")
    parser.add_argument("--minutes", type=float, default=60, help="or after so long, with exit code 1")
    parser.add_argument("--kills-per-run", type=int, default=14)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="lf-chaos-"))
    with Forks(folder) as forks:
        fire = campaign(forks, folder, arguments)
    tell(fire, arguments)
    enough = fire.kills >= arguments.kills
    if not enough:
        print(f"only {fire.kills} of {arguments.kills} kills in {arguments.minutes} minutes")
    return 0 if enough and not fire.faults else 1


def campaign(forks: Forks, folder: Path, arguments: argparse.Namespace) -> Disturbed:
    """Disturb run after run until there were enough kills, or something is wrong."""
    draw = random.Random(arguments.seed)
    fire = Disturbed(forks, undisturbed(forks, folder), draw, arguments.kills_per_run)
    ends = time.monotonic() + 60 * arguments.minutes
    while fire.kills < arguments.kills and not fire.faults and time.monotonic() < ends:
        way = WAYS[len(fire.runs) % len(WAYS)]
        seconds = time.monotonic()
        fire.run(way)
        print(f"run {len(fire.runs)}, {way}: {fire.runs[-1][1]} kills, {time.monotonic() - seconds:.0f} s", flush=True)
        for fault in fire.faults:
            print(f"FAULT: {fault}", flush=True)
    return fire


def tell(fire: Disturbed, arguments: argparse.Namespace) -> None:
    """Print where the kills fell, and write the JSON."""
    kinds = sorted({kind for _, kind in fire.fell})
    table = Table("stage", *kinds, title=f"{fire.kills} kills in {len(fire.runs)} runs, {len(fire.faults)} faults")
    for stage in dict.fromkeys(stage for stage, _ in fire.fell):
        table.add_row(stage, *(str(fire.fell[stage, kind] or "") for kind in kinds))
    Console().print(table)
    if arguments.json:
        by_stage: Counter[str] = Counter()
        for (stage, _), count in fire.fell.items():
            by_stage[stage] += count
        found = {"seed": arguments.seed, "kills": fire.kills, "runs": fire.runs, "by_stage": dict(by_stage)}
        arguments.json.write_text(json.dumps(found | {"faults": fire.faults}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
