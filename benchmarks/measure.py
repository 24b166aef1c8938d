"""What every benchmark shares: both sides timed in turn, a table beside the goals, one JSON form, the machine's facts.

A benchmark is run as a script from its own folder, so `from measure import ...` finds this file.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

PACKAGES = ("numpy", "numba", "torch", "transformers", "tokenizers", "rapidfuzz", "pyarrow")


@dataclass(frozen=True)
class Goal:
    """The bound that a metric must keep to."""

    sign: Literal["<=", ">="]
    bound: float

    def met(self, value: float) -> bool:
        """Whether a value keeps to it; NaN never does."""
        return value <= self.bound if self.sign == "<=" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


def at_most(bound: float) -> Goal:
    """Return the goal of a metric that should be small."""
    return Goal("<=", bound)


def at_least(bound: float) -> Goal:
    """Return the goal of a metric that should be large."""
    return Goal(">=", bound)


def options(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks take: --quick and --json; `doc` is the benchmark's own docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure less: within a minute on two cores")
    parser.add_argument("--json", type=Path, help="where to write the result")
    return parser


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each side, one entry per round: every round runs all sides, every other one backwards.

    Slow drifts of a shared machine so meet all sides alike. `clock`: `time.process_time` leaves other processes out
    and adds up threads. Nothing is warmed up here: run each side once before, which is when equality is checked.
    A side that works on a GPU must wait for it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            gc.collect()  # no side pays for what another left
            started = clock()
            sides[name]()
            seconds[name].append(clock() - started)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], top: str, bottom: str) -> float:
    """Return the median time of one side over that of another."""
    return statistics.median(seconds[top]) / statistics.median(seconds[bottom])


def show(
    title: str,
    metrics: Mapping[str, float],
    goals: Mapping[str, Goal],
    seconds: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Print the sides' times, where given, and each metric beside its goal; a metric without one is only reported."""
    console = Console()
    if seconds:
        times = Table("side", "median s", "least", "most", "rounds", title=title)
        for name, values in seconds.items():
            shown = [f"{value:.4g}" for value in (statistics.median(values), min(values), max(values))]
            times.add_row(name, *shown, str(len(values)))
        console.print(times)
    table = Table("metric", "value", "goal", "", title=None if seconds else title)
    for name, value in metrics.items():
        goal = goals.get(name)
        verdict = "" if goal is None else "[green]met[/]" if goal.met(value) else "[red]missed[/]"
        table.add_row(name, f"{value:.4g}", str(goal or "reported"), verdict)
    console.print(table)


def write(
    path: Path | None, metrics: Mapping[str, float], goals: Mapping[str, Goal], inputs: Mapping[str, Any]
) -> None:
    """Write the result as JSON; nothing without a path. `inputs`: what was measured on (sizes, repeats, times)."""
    if path is None:
        return
    bounds = {name: str(goal) for name, goal in goals.items() if name in metrics}
    content = {"metrics": dict(metrics), "goals": bounds, "machine": machine(), "inputs": dict(inputs)}
    path.write_text(json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Describe the machine without its name: processor, cores, Python, the packages that compute, the GPU if used."""
    facts = {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")  # a benchmark without torch has no GPU and need not wait for its import
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts | {"versions": versions}
