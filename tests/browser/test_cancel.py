"""Cancelling from a run's page: nothing runs on, nothing that was finished is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_up import living_processes, wait_until
from prefect_pages import Pages
from prefect_run_page import RunPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
STEPS = 6000  # of training: a minute on two idle cores, so that there is time to cancel it


def processes_of(run: RunPage) -> dict[int, str]:
    """Return the living processes of a flow run: the worker gives them its id."""
    return living_processes(run.id)


def cancel(run: RunPage, picture: str) -> None:
    run.press("Cancel", confirmed_by="Confirm")
    run.wait("Cancelled", but_not_yet=())
    run.picture(picture)
    wait_until(lambda: not processes_of(run), lambda: str(processes_of(run)))


def test_in_the_middle_of_a_capture(
    pages: Pages, values: dict[str, Any], files: Callable[..., dict[Path, int]]
) -> None:
    many = values | {"recipe.name": "captures", "recipe.corpus.documents_per_shard": 3, "stop_after": "capture"}
    run = pages.run("pipeline", many).wait("Running")
    wait_until(lambda: len(files("capture", "captures")) >= 2, run.said)
    assert processes_of(run)
    cancel(run, "capture-cancelled")
    done = files("capture", "captures")
    assert 2 <= len(done) < 20

    again = pages.run("pipeline", many).wait("Completed")
    again.says("ran capture")
    all_of_it = files("capture", "captures")
    assert len(all_of_it) == 20 and done.items() <= all_of_it.items()


def test_in_the_middle_of_a_training_run(
    finished: RunPage, pages: Pages, project: Path, values: dict[str, Any]
) -> None:
    long = values | {
        "source": "fused",
        "recipe.train.tokens_per_step": 256,
        "recipe.train.epochs": STEPS,
        "recipe.train.max_steps": STEPS,
        "recipe.execution.checkpoint_every_steps": 100,
        "recipe.execution.evaluate_every_steps": 0,
    }
    run = pages.run("train", long).wait("Running")
    metrics = project / "runs" / "tiny" / "train" / "fused"
    wait_until(lambda: any(steps(path) >= 60 for path in metrics.glob("metrics.*.jsonl")), run.said)
    assert len(processes_of(run)) > 1  # the run, and what trains
    cancel(run, "training-cancelled")
    (stopped,) = (path for path in metrics.glob("metrics.*.jsonl") if steps(path) >= 60)
    assert steps(stopped) < STEPS

    again = pages.run("train", long).wait("Completed")
    again.picture("training-went-on")
    lines = [json.loads(line) for line in stopped.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[0]["time"] < again.began < lines[-1]["time"]


def steps(path: Path) -> int:
    return len(path.read_text().splitlines())
