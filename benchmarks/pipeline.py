"""What the pipeline costs beside its models, read from a finished run's own records.

    python benchmarks/pipeline.py --recipe demo --json pipeline.json

over_compute: wall time of the run over the time its models computed (capture, training, evaluation; forward and
backward). Fetching and converting packaged models and text comes before the journal's clock starts.
rerun_nothing_s: the same command again, with everything up to date; median of several.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from logitfuse.tasks.execute import stage_status
from logitfuse.tasks.recipe import read_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER

GOALS = {"over_compute": 1.15, "rerun_nothing_s": 10.0}


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo", help="recipe of a finished run")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--quick", action="store_true", help="time one rerun instead of five")
    arguments = parser.parse_args()
    run = Run(read_recipe(arguments.recipe))
    stages = stage_seconds(run)
    walls = [line["seconds"] for line in journal(run.recipe.folder) if line["ended"] == "done"]
    if not walls:
        sys.exit(f"{run.recipe.folder} holds no finished run. Run it first: logitfuse run {arguments.recipe}")
    compute = sum(model for _, model in stages.values())
    reruns = [rerun(arguments.recipe) for _ in range(1 if arguments.quick else 5)]
    metrics = {"over_compute": sum(walls) / compute, "rerun_nothing_s": statistics.median(reruns)}
    show(stages, sum(walls), compute, metrics)
    if arguments.json:
        inputs = {"recipe": arguments.recipe, "runs": len(walls), "wall_s": sum(walls), "model_s": compute}
        content = {"metrics": metrics, "goals": GOALS, "machine": machine(), "inputs": inputs}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


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


def show(stages: dict[str, tuple[float, float]], wall: float, compute: float, metrics: dict[str, float]) -> None:
    """Print what was found beside the goals."""
    print(f"{'stage':<10}{'seconds':>10}{'models':>10}")
    for stage, (total, model) in stages.items():
        print(f"{stage:<10}{total:>10.1f}{model:>10.1f}")
    print(f"{'wall':<10}{wall:>10.1f}{compute:>10.1f}\n")
    for name, value in metrics.items():
        print(f"{name:<18}{value:>8.2f}   goal <= {GOALS[name]:g}: {'met' if value <= GOALS[name] else 'missed'}")


def machine() -> dict[str, Any]:
    """Describe the machine without its name."""
    return {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}


if __name__ == "__main__":
    main()
