"""What the suites gave: each model's score per task and suite, and how models differ on the very same examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.means import mean_interval
from logitfuse.storage.errors import ShardMismatch
from logitfuse.tasks.suites import STAGE, read_suite_result, tasks_of
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.evaluate import Contestant
    from logitfuse.tasks.run import Run

MEAN = "mean"
Row = dict[str, Any]


@dataclass(frozen=True)
class TaskScores:
    """One task: every model's score of the same N examples in the metric that tables show."""

    suite: str
    task: str
    metric: str
    fewshot: int
    chance: float | None
    scores: dict[str, NDArray[np.float64]]


def task_scores(run: Run, models: list[Contestant]) -> list[TaskScores]:
    """Return all tasks' scores; raise `ShardMissing` before they are there, `ShardMismatch` if examples differ."""
    return [_of_task(run, models, number) for number in range(len(tasks_of(run.recipe.suites)))]


def _of_task(run: Run, models: list[Contestant], number: int) -> TaskScores:
    found = {model.label: read_suite_result(run, Unit(STAGE, model.label, number)) for model in models}
    first = next(iter(found.values()))
    asked = [one["hash"] for one in first["examples"]]
    for label, result in found.items():
        if [one["hash"] for one in result["examples"]] != asked:
            raise ShardMismatch(
                f"task {first['task']}: {label} was asked other examples than {models[0].label}; its data set changed "
                "in between. Run: logitfuse stage suites RECIPE --redo"
            )
    metric = first["metric"]
    scores = {
        label: np.array([one["scores"][metric] for one in result["examples"]], np.float64)
        for label, result in found.items()
    }
    suite = tasks_of(run.recipe.suites)[number].suite  # not of the result: another suite may have asked it first
    return TaskScores(suite, first["task"], metric, first["fewshot"], first.get("chance"), scores)


def score_rows(tasks: list[TaskScores], models: list[Contestant]) -> list[Row]:
    """Return a row per suite (its plain mean over tasks), task and model, with 95% intervals over examples."""
    return [
        {**about, "model": model.label, "role": model.role, **_interval([task.scores[model.label] for task in group])}
        for about, group in _groups(tasks)
        for model in models
    ]


def difference_rows(tasks: list[TaskScores], models: list[Contestant], reference: str) -> list[Row]:
    """Return by how much each other model's score is above the reference's, paired by example."""
    return [
        {
            **about,
            "model": model.label,
            "role": model.role,
            "against": reference,
            **_interval([task.scores[model.label] - task.scores[reference] for task in group]),
        }
        for about, group in _groups(tasks)
        for model in models
        if model.label != reference
    ]


def _groups(tasks: list[TaskScores]) -> list[tuple[Row, list[TaskScores]]]:
    """Return what is shown in a row each: per suite its mean, where it has several tasks, then its tasks."""
    found: list[tuple[Row, list[TaskScores]]] = []
    for suite in dict.fromkeys(task.suite for task in tasks):
        mine = [task for task in tasks if task.suite == suite]
        if len(mine) > 1:
            found.append((_about(suite, MEAN, mine), mine))
        found += [(_about(suite, task.task, [task]), [task]) for task in mine]
    return found


def _about(suite: str, task: str, group: list[TaskScores]) -> Row:
    metrics = list(dict.fromkeys(one.metric for one in group))
    chances = [one.chance for one in group if one.chance is not None]
    return {
        "suite": suite,
        "task": task,
        "metric": metrics[0] if len(metrics) == 1 else ", ".join(metrics),
        "fewshot": group[0].fewshot,
        "n": sum(len(next(iter(one.scores.values()))) for one in group),
        "chance": float(np.mean(chances)) if len(chances) == len(group) else None,
    }


def _interval(scores: list[NDArray[np.float64]]) -> Row:
    found = mean_interval(scores)
    return {"value": found.value, "low": found.low, "high": found.high}
