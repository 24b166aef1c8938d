"""What each strategy's targets are worth: nats of held-out text's true tokens, against those of the student itself.

    python benchmarks/headroom.py [--recipe demo|FILE] [--set FIELD=VALUE ...] [--k 10 16 64] [--quick] --json FILE

One run folder, the recipe's own, and one capture per k: if the recipe has been run, its captures stand. Between
variants only settings change, so only map, align, fuse and headroom are done again. Each variant differs from the
recipe in the settings shown; --k beyond the first shows the recipe itself and the plain mean.

A cell is targets less student over all positions of its class, so below 0 is headroom; a position without a target
counts as the student's own. Classes are those of `logitfuse headroom`. The two halves are of validation documents, by a
hash of their ids. --quick: 4 documents in a run folder of their own and few variants, without goals: a look, not a
measurement (maps are counted on the text of 2 documents).
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from measure import at_most, options, show, write
from rich.console import Console
from rich.table import Table

from logitfuse.kernels.headroom import Tally
from logitfuse.tasks.checks import check_run, claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.headroom import add_chunk, read_headroom, validation_shards, why_not
from logitfuse.tasks.headroom_chunks import FUSED, shards_read, validation_chunks
from logitfuse.tasks.headroom_table import ALL, FEW_POSITIONS, MUCH_WORSE, Row, pick_rows, table_rows
from logitfuse.tasks.recipe import Recipe, read_recipe
from logitfuse.tasks.run import Run

GOALS = {"default_all": at_most(0.0), "default_worst_class": at_most(MUCH_WORSE)}
WIDTH = 150  # of the table, however narrow the terminal
CLASSES = (ALL, "same token", "source longer", "source shorter")
CAPTURED, REDONE = ("encode", "capture"), ("map", "align", "fuse", "headroom")
DEFAULT, MEAN = "the recipe", "fuse: mean"
VARIANTS: dict[str, list[str]] = {
    "map: exact": ["map.strategy=exact", "map.options={}"],
    "map: mined": ["map.strategy=mined", "map.options={}"],
    "map: first_piece": ["map.strategy=first_piece", "map.options={}"],
    "map: learned, 3k tokens": ["map.strategy=learned", "map.options={max_tokens: 3000}"],
    "map: learned, 15k tokens": ["map.strategy=learned", "map.options={max_tokens: 15000}"],
    "condition_on_target: never": ["align.condition_on_target=never"],
    "min_probability: 0": ["align.min_probability=0"],
    "min_probability: 0.003": ["align.min_probability=0.003"],
    DEFAULT: [],
    "fuse: min_ce": ["fuse.rule=min_ce", "fuse.options={}"],
    "fuse: avg_ce": ["fuse.rule=avg_ce", "fuse.options={}"],
    "fuse: weighted, 0.05": ["fuse.rule=weighted", "fuse.options={temperature: 0.05}"],
    "fuse: weighted, 0.1": ["fuse.rule=weighted", "fuse.options={temperature: 0.1}"],
    "fuse: weighted, 0.2": ["fuse.rule=weighted", "fuse.options={temperature: 0.2}"],
    MEAN: ["fuse.rule=weighted", "fuse.options={temperature: inf}"],
    "fuse: bayes": ["fuse.rule=bayes", "fuse.options={}"],
}
QUICK = (DEFAULT, "fuse: min_ce", MEAN)
Halves = tuple[list[Row], list[Row]]


def main() -> None:
    """Capture what is missing, measure every variant, print the table and write the JSON."""
    arguments = _arguments()
    found = [line for k in arguments.k for line in measured(arguments, k)]
    Console(width=max(Console().width, WIDTH)).print(table(found))
    best = next(line for line in found if line["variant"] == DEFAULT and line["targets"] == FUSED)
    metrics = {
        "default_all": best["change"][ALL],
        "default_worst_class": max(n for c, n in best["change"].items() if best["positions"][c] >= FEW_POSITIONS),
        "default_worst_domain": max(best["domains"].values()),
        "default_bytes_per_token": best["bytes_per_token"],
    }
    goals = {} if arguments.quick else GOALS
    show(f"targets against the student, k = {arguments.k[0]}", metrics, goals)
    told = [
        change for change in arguments.set if not change.startswith("execution.")
    ]  # where it is done changes nothing
    inputs = {"recipe": arguments.recipe, "set": told, "quick": arguments.quick, "lines": found}
    write(arguments.json, metrics, goals, inputs)


def _arguments() -> Namespace:
    parser = options(__doc__)
    parser.add_argument("--recipe", default="demo", help="recipe whose models and text are used")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe")
    parser.add_argument("--k", type=int, nargs="+", default=[10], help="tokens kept; each is a capture of its own")
    return parser.parse_args()


def recipe_of(arguments: Namespace, k: int, changes: list[str]) -> Recipe:
    """Return the recipe with what the command line changes, k, and a variant's settings."""
    chosen = [*arguments.set, f"capture.k={k}", *changes]
    if arguments.quick:
        name = read_recipe(arguments.recipe, arguments.set).name
        chosen += [f"name={name}-quick", "corpus.max_documents=4", "corpus.held_out_share=0.5"]
    return read_recipe(arguments.recipe, chosen)


def measured(arguments: Namespace, k: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of one capture: the fused targets of every variant, each source alone where that is new."""
    wanted = QUICK if arguments.quick else VARIANTS if k == arguments.k[0] else (DEFAULT, MEAN)
    captured(recipe_of(arguments, k, []))
    for name in wanted:
        run = Run(recipe_of(arguments, k, VARIANTS[name]))
        show_progress(f"k = {k}, {name}")
        for stage in REDONE:
            list(do_units(run, run.units(stage)))
        yield from lines(run, k, name)


def captured(recipe: Recipe) -> None:
    """Do what comes before the maps, unless it stands; stop where nothing could be measured."""
    run = Run(recipe)
    check_run(run)
    claim_folder(recipe)
    do_prepare(run)
    if reason := why_not(run):
        sys.exit(f"The headroom of {recipe.name} cannot be measured: {reason}")
    for stage in CAPTURED:
        for unit, outcome in do_units(run, run.units(stage)):
            if outcome.state == "done":
                show_progress(f"{unit}: {outcome.seconds:.0f} s")


def show_progress(what: str) -> None:
    """Say what is being done, beside the table's own stream."""
    print(what, file=sys.stderr, flush=True)


def lines(run: Run, k: int, name: str) -> Iterator[dict[str, Any]]:
    """Yield what stage headroom found of a variant, with the halves; sources alone only where they are aligned anew."""
    rows, halves = read_headroom(run)["rows"], measured_halves(run)
    for subject in dict.fromkeys(row["subject"] for row in rows):
        if subject != FUSED and name.startswith("fuse: "):
            continue
        domains = dict.fromkeys(row["domain"] for row in rows if row["domain"] != ALL)
        yield {
            "k": k,
            "variant": name,
            "targets": subject,
            "positions": {c: sum(row["positions"] for row in chosen(rows, subject, ALL, c)) for c in CLASSES},
            "student": {c: student(rows, subject, c) for c in CLASSES},
            "change": {c: change(rows, subject, ALL, c) for c in CLASSES},
            "halves": {c: [change(half, subject, ALL, c) for half in halves] for c in CLASSES},
            "domains": {domain: change(rows, subject, domain, ALL) for domain in domains},
            "bytes_per_token": bytes_per_token(run) if subject == FUSED else None,
        }


def measured_halves(run: Run) -> Halves:
    """Return headroom's rows on either half of the validation documents."""
    tallies = (Tally(), Tally())
    for shard in validation_shards(run):
        for chunk in validation_chunks(run, shards_read(run, shard)):
            half = blake2b(chunk.doc_id.encode(), digest_size=1).digest()[0] % 2
            add_chunk(tallies[half], chunk, run)
    return table_rows(tallies[0]), table_rows(tallies[1])


def chosen(rows: list[Row], subject: str, domain: str, kind: str) -> list[Row]:
    """Return the rows of one cell."""
    return pick_rows(rows, subject=subject, domain=domain, **{"class": kind})


def change(rows: list[Row], subject: str, domain: str, kind: str) -> float:
    """Return nats of targets less student, the mean over all positions: what is not taught changes nothing."""
    found = chosen(rows, subject, domain, kind)
    nats = sum(r["elsewhere"] * r["compared"] for r in found if r["elsewhere"] is not None)
    return float(nats / max(sum(row["positions"] for row in found), 1))


def student(rows: list[Row], subject: str, kind: str) -> float:
    """Return the student's nats, where taught."""
    found = chosen(rows, subject, ALL, kind)
    return float(sum(r["student"] * r["taught"] for r in found) / max(sum(row["taught"] for row in found), 1))


def bytes_per_token(run: Run) -> float:
    """Return the size of the fused shards over the target's tokens."""
    records = [run.record(unit) for unit in run.units("fuse")]
    size = sum(file.bytes for record in records for file in record.files)
    return float(size / max(sum(record.counts["positions"] for record in records), 1))


def table(found: list[dict[str, Any]]) -> Table:
    """Return the table of all variants; its first two rows say how many positions there are, and the student's nats."""
    shown = Table("k", "differs in", "targets", *CLASSES, "halves, all", "worst domain", "B/token")
    first = next(line for line in found if line["variant"] == DEFAULT and line["targets"] == FUSED)
    shown.add_row("", "", "positions", *(f"{first['positions'][c]:,}" for c in CLASSES))
    shown.add_row("", "", "student", *(f"{first['student'][c]:.3f}" for c in CLASSES), end_section=True)
    for line in found:
        worst = max(line["domains"], key=line["domains"].get)
        size = line["bytes_per_token"]
        shown.add_row(
            str(line["k"]),
            line["variant"],
            line["targets"],
            *(f"{line['change'][c]:+.3f}" for c in CLASSES),
            " ".join(f"{half:+.3f}" for half in line["halves"][ALL]),
            f"{worst} {line['domains'][worst]:+.3f}",
            "" if size is None else f"{size:.0f}",
        )
    return shown


if __name__ == "__main__":
    main()
