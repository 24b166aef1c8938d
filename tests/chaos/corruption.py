"""Damage every kind of file of a finished run at random places: `verify` and every reader must find all of it.

    make corruption                                             # 1,000 damages of each kind of file
    python tests/chaos/corruption.py --damages 100 --seed 7 --json corruption.json

Then what is made from a damaged file must refuse to be made, and the command that `verify` names must repair it. Exit
code 1 if a single damage goes unnoticed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import yaml
from damaged_checkpoints import damage_checkpoints
from damaged_files import DamagedFiles
from damages import DAMAGES
from rich.console import Console
from rich.table import Table
from runs_under_fire import Forks, undisturbed


def main() -> int:
    """Run the campaign and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=1000, help="of each kind of file")
    parser.add_argument("--repairs", type=int, default=2, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="lf-corruption-"))
    with Forks(folder) as forks:
        recipe = undisturbed(forks, folder).recipe("undisturbed")
    files = DamagedFiles(yaml.safe_load(recipe.read_text()), recipe, random.Random(arguments.seed))
    for kind in list(files.files):
        damage(files, kind, arguments.damages, arguments.repairs)
    noticed, unnoticed = damage_checkpoints(folder / "checkpoints", arguments.damages, files.draw)
    files.noticed += noticed
    files.unnoticed += unnoticed
    tell(files, arguments)
    return 1 if files.unnoticed else 0


def damage(files: DamagedFiles, kind: str, damages: int, repairs: int) -> None:
    """Damage files of one kind, and say what came of it."""
    began = time.monotonic()
    for _ in range(damages):
        files.look(kind)
    for _ in range(repairs):
        if not kind.endswith("/record"):
            files.make_from(kind)
        files.repair(kind)
    print(f"{kind}: {damages} damages, {len(files.unnoticed)} unnoticed, {time.monotonic() - began:.0f} s", flush=True)


def tell(files: DamagedFiles, arguments: argparse.Namespace) -> None:
    """Print the table and write the JSON."""
    ways = [*DAMAGES, "made from", "repaired"]
    table = Table("kind of file", *ways, title=f"{files.noticed.total():,} damages, {len(files.unnoticed)} unnoticed")
    kinds = dict.fromkeys(kind for kind, _ in files.noticed)
    for kind in kinds:
        table.add_row(kind, *(str(files.noticed[kind, way] or "") for way in ways))
    Console().print(table)
    for line in files.unnoticed:
        print(f"UNNOTICED: {line}")
    if arguments.json:
        found = {kind: sum(files.noticed[kind, way] for way in DAMAGES) for kind in kinds}
        result = {"seed": arguments.seed, "damages": found, "unnoticed": files.unnoticed}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
