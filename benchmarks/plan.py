"""What `logitfuse plan` says before a run, against what the run then has: tokens, bytes and time.

Plans a recipe, runs it in a folder of its own, and compares. tokens_off: of the tokenizer that is furthest off,
|predicted over actual - 1|. tokens_off_sampled: the same of a plan of the corpus without `max_documents`, from 1 MB of
its text, against a plan that tokenises all of it. bytes_off: of all files of the data stages together; stage_bytes_off
of the stage that is furthest off. memory_off: of the most that a training process held, as the probe foresaw it.
time_off: of the whole run, its wall against the sum of the stages'. The run and the plan's probe compute on the same
machine one after the other: on one that has other work both times mean little, so its load stands beside them.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import at_most, options, show, write
from rich.console import Console
from rich.table import Table

from logitfuse.tasks.execute import stage_status
from logitfuse.tasks.recipe import read_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER

GOALS = {
    "tokens_off": at_most(0.05),
    "tokens_off_sampled": at_most(0.05),
    "bytes_off": at_most(0.10),
    "time_off": at_most(0.30),
    "memory_off": at_most(0.25),
}
DATA = ("prepare", "encode", "capture", "map", "align", "fuse")
QUICK = ["corpus.max_documents=16", "corpus.documents_per_shard=4"]
Facts = dict[str, Any]


def main() -> None:
    """Print the tables and write the JSON."""
    parser = options(__doc__)
    parser.add_argument("--recipe", default="demo", help="recipe to plan and run")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override a field")
    parser.add_argument("--folder", type=Path, help="where to run it; kept. Default: a temporary one")
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        overrides = [*arguments.overrides, *(QUICK if arguments.quick else []), f"execution.folder={folder}"]
        compare(arguments.recipe, overrides, arguments.json)


def compare(recipe: str, overrides: list[str], json_file: Path | None) -> None:
    """Plan, run, compare."""
    loads = [os.getloadavg()[0]]
    began = time.monotonic()
    planned = command("plan", recipe, overrides, "--json")
    probed = time.monotonic() - began
    every = [*overrides, "corpus.max_documents=null"]
    sampled = command("plan", recipe, every, "--json", "--no-probe", "--sample", "1")
    counted = command("plan", recipe, every, "--json", "--no-probe", "--sample", "1000")
    loads.append(os.getloadavg()[0])
    subprocess.run(line("run", recipe, overrides, "--plain"), check=True, stdout=subprocess.DEVNULL)
    loads.append(os.getloadavg()[0])
    run = Run(read_recipe(recipe, overrides))
    actual, memory = made(run), held(run, planned)
    stages = {stage: (total(planned, stage), actual[stage]) for stage in actual}
    metrics = {
        "tokens_off": tokens_off(planned, actual["tokenizers"]),
        "tokens_off_sampled": tokens_off(sampled, total(counted, "tokenizers")),
        "bytes_off": off(*(sum(stages[stage][side]["bytes"] for stage in DATA) for side in (0, 1))),
        "stage_bytes_off": max(off(stages[stage][0]["bytes"], stages[stage][1]["bytes"]) for stage in DATA),
        "time_off": off(planned["seconds_left"]["value"], actual["all"]["seconds"]),
        "memory_off": max(off(predicted, most) for predicted, most in memory.values()),
    }
    show_stages(stages)
    show("the plan over the run", metrics, GOALS)
    inputs = {
        "recipe": recipe,
        "overrides": [one for one in overrides if not one.startswith("execution.folder")],
        "plan_s": round(probed, 1),
        "predicted_s": planned["seconds_left"]["value"],
        "actual_s": actual["all"]["seconds"],
        "sampled": {
            "documents": sampled["text"]["sample_documents"],
            "of": counted["text"]["documents"]["value"],
            "tokens": sampled["tokens"],
            "counted": counted["tokens"],
        },
        "memory": {name: {"predicted": one, "actual": other} for name, (one, other) in memory.items()},
        "load": [round(load, 2) for load in loads],
        "stages": {name: {"predicted": one, "actual": other} for name, (one, other) in stages.items()},
    }
    write(json_file, metrics, GOALS, inputs)


def line(command: str, recipe: str, overrides: list[str], *options: str) -> list[str]:
    """Return a command of ours with its overrides."""
    sets = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "logitfuse.flows.cli", command, recipe, *sets, *options]


def command(name: str, recipe: str, overrides: list[str], *options: str) -> Facts:
    """Run a command that prints JSON."""
    done = subprocess.run(line(name, recipe, overrides, *options), stdout=subprocess.PIPE, text=True)
    facts: Facts = json.loads(done.stdout)
    if not facts["goes"]:
        sys.exit(f"the plan refuses it: {facts['refused'] + facts['does_not_fit']}")
    return facts


def made(run: Run) -> dict[str, dict[str, float]]:
    """Return bytes, seconds and tokens of every stage of a finished run; `all` is what its journal says it took."""
    found: dict[str, dict[str, float]] = {}
    for stage in ORDER:
        sums: dict[str, float] = defaultdict(float)
        for status in stage_status(run, stage):
            assert status.record is not None, f"{status.unit} is not done"
            sums["bytes"] += sum(file.bytes for file in status.record.files)
            sums["seconds"] += status.record.made["seconds"]
            sums[f"tokens of {status.unit.source}"] += status.record.counts.get("tokens", 0) * (stage == "encode")
        if sums["bytes"]:
            found[stage] = {name: value for name, value in sums.items() if value or name in ("bytes", "seconds")}
    journal = [json.loads(text) for text in (run.recipe.folder / "journal.jsonl").read_text().splitlines()]
    found["all"] = {"bytes": sum(one["bytes"] for one in found.values()), "seconds": journal[-1]["seconds"]}
    found["tokenizers"] = {
        source.label: found["encode"][f"tokens of {label}"] for label, source in run.tokenizers.items()
    }
    return found


def held(run: Run, planned: Facts) -> dict[str, tuple[float, float]]:
    """Return the bytes that each trained model's processes were to hold at most, and held."""
    needed = {row["model"]: row["needed"] for row in planned["memory"] if row["stage"] == "train"}
    records = {unit.source: run.record(unit) for unit in run.units("train")}
    return {arm: (needed[arm], record.made["peak_memory_bytes"]) for arm, record in records.items() if arm in needed}


def total(planned: Facts, stage: str) -> dict[str, float]:
    """Return what a plan says of a stage's sources together."""
    if stage == "tokenizers":
        return {row["tokenizer"]: row["value"] for row in planned["tokens"]}
    rows = [row for row in planned["stages"] if stage in (row["stage"], "all")]
    seconds = [row["seconds_left"]["value"] for row in rows if row["seconds_left"]]
    return {"bytes": sum(row["bytes"]["value"] for row in rows), "seconds": sum(seconds)}


def tokens_off(planned: Facts, actual: dict[str, float]) -> float:
    """Return how far the worst tokenizer's number of tokens is off."""
    return max(off(row["value"], actual[row["tokenizer"]]) for row in planned["tokens"])


def off(predicted: float, actual: float) -> float:
    """Return by which share a prediction is off."""
    return abs(predicted / actual - 1)


def show_stages(stages: dict[str, tuple[dict[str, float], dict[str, float]]]) -> None:
    """Print predicted and actual seconds and bytes of each stage."""
    table = Table("stage", "predicted s", "actual s", "ratio", "predicted bytes", "actual bytes", "ratio")
    for name, (one, other) in stages.items():
        if name == "tokenizers":
            continue
        cells = []
        for what, form in (("seconds", ",.1f"), ("bytes", ",.0f")):
            ratio = f"{one[what] / other[what]:.2f}" if other[what] else ""
            cells += [format(one[what], form), format(other[what], form), ratio]
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
