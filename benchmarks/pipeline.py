"""What the pipeline costs beside its models, read from a finished run's own records.

    python benchmarks/pipeline.py --recipe demo --json pipeline.json
    python benchmarks/pipeline.py --growth --json growth.json          # needs no finished run

over_compute: wall time of the run over the time its models computed (capture, training, evaluation; forward and
backward). Fetching and converting packaged models and text comes before the journal's clock starts.
rerun_nothing_s: the same command again, with everything up to date; median of several.
rss_growth (with --growth, and then alone): peak memory of the worst data stage on ten times the corpus over that on
the corpus; see corpus_growth.py.
"""

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from corpus_growth import measure_growth
from measure import at_most, options, show, write
from rich.console import Console
from rich.table import Table

from logitfuse.tasks.execute import stage_status
from logitfuse.tasks.recipe import read_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER

GOALS = {"over_compute": at_most(1.15), "rerun_nothing_s": at_most(10.0), "rss_growth": at_most(1.05)}


def main() -> None:
    """Print the table and write the JSON."""
    parser = options(__doc__)
    parser.add_argument("--recipe", default="demo", help="recipe of a finished run")
    parser.add_argument("--growth", action="store_true", help="measure rss_growth instead")
    arguments = parser.parse_args()
    if arguments.growth:
        growth, made_of = measure_growth(arguments.quick)
        show("memory on ten times the corpus", growth, GOALS)
        return write(arguments.json, growth, GOALS, made_of)
    run = Run(read_recipe(arguments.recipe))
    stages = stage_seconds(run)
    walls = [line["seconds"] for line in journal(run.recipe.folder) if line["ended"] == "done"]
    if not walls:
        sys.exit(f"{run.recipe.folder} holds no finished run. Run it first: logitfuse run {arguments.recipe}")
    compute = sum(model for _, model in stages.values())
    reruns = [rerun(arguments.recipe) for _ in range(1 if arguments.quick else 5)]
    metrics = {"over_compute": sum(walls) / compute, "rerun_nothing_s": statistics.median(reruns)}
    show_stages(stages, sum(walls), compute)
    show("the pipeline over its models", metrics, GOALS)
    inputs = {"recipe": arguments.recipe, "runs": len(walls), "wall_s": sum(walls), "model_s": compute}
    write(arguments.json, metrics, GOALS, inputs)


def stage_seconds(run: Run) -> dict[str, tuple[float, float]]:
    """Return (seconds of all units, seconds its models computed) of each stage."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for stage in ORDER:
        for status in stage_status(run, stage):
            if status.record is None:
                sys.exit(f"{status.unit} is {status.state}: {status.why} Finish the run first.")
            made = status.record.made
            found[stage][0] += made["seconds"]
            found[stage][1] += made.get("model_seconds", 0.0)
    return {stage: (total, model) for stage, (total, model) in found.items()}


def journal(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's journal."""
    path = folder / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rerun(recipe: str) -> float:
    """Return how long the command takes when nothing is left to do."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "logitfuse.flows.cli", "run", recipe], check=True, capture_output=True)
    return time.perf_counter() - started


def show_stages(stages: dict[str, tuple[float, float]], wall: float, compute: float) -> None:
    """Print what each stage took, and its models alone."""
    table = Table("stage", "seconds", "models")
    for stage, (total, model) in [*stages.items(), ("wall", (wall, compute))]:
        table.add_row(stage, f"{total:.1f}", f"{model:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
