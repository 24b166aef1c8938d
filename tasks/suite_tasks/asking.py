"""Asking a model one task through lm-evaluation-harness, and what came of it, example by example."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.suite_tasks.harness import harness_version, quiet
from logitfuse.tasks.suite_tasks.scoring import score_programs

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM

    from logitfuse.tasks.engine import Progress
    from logitfuse.tasks.suite_tasks.definitions import Definition
    from logitfuse.tasks.suites_settings import SuiteSettings

RESULT_FORMAT = 1
# Of a multiple-choice task that has both: published tables of these suites take the length-normalised one.
PREFERRED = ("acc_norm", "acc", "exact_match", "pass@1")


def ask(lm: HFLM, definition: Definition, settings: SuiteSettings, progress: Progress) -> dict[str, Any]:
    """Return a task's result as JSON values: metrics with standard errors, and the score of every example."""
    from lm_eval.evaluator import evaluate

    _seed(settings.seed)
    with quiet():
        task = load_task(definition, settings)
        found = evaluate(
            lm=lm, task_dict={"tasks": {definition.name: task}}, limit=settings.limit, bootstrap_iters=1000
        )
    assert found is not None, "one process asks, so it has the results"
    samples = found["samples"][definition.name]
    examples = gather_examples(samples)
    metrics = _metrics(found["results"][definition.name])
    facts: dict[str, Any] = {"chance": chance(samples)}
    if definition.runs_code:
        template = definition.config["metadata"]["program"]
        scored = score_programs(template, [sample["doc"] for sample in samples], examples, settings, progress)
        metrics, facts = {"pass@1": mean_and_error([one["scores"]["pass@1"] for one in examples])}, scored
    return {
        "format": RESULT_FORMAT,
        "task": definition.name,
        "metric": primary(metrics),
        "metrics": metrics,
        "n": len(examples),
        "fewshot": task.config.num_fewshot or 0,
        "lm_eval": harness_version(),
        "task_version": found["versions"].get(definition.name),
        **facts,
        "examples": examples,
    }


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def load_task(definition: Definition, settings: SuiteSettings) -> Task:
    """Load a task with its data; raise `BadInput` where the data cannot be had."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(definition.file) if definition.file else deepcopy(definition.config)
    config = {name: value for name, value in config.items() if name not in ("tag", "group", "task_list")}
    config["task"] = definition.name
    if definition.file and "class" not in config:
        _locate(config, definition.file.parent)
    try:
        (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    except Exception as error:  # whatever a data set's loader, the network or a task's own function raises
        raise BadInput(
            f"task {definition.name!r} ({definition.file or definition.suite}): its data could not be loaded: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]} Check the network and the task's file; "
            "package:humaneval and package:bigbench need no network."
        ) from error
    _override(task, settings)
    return task


def _locate(config: dict[str, Any], folder: Path) -> None:
    """Let data files lie beside their task file: the loader would look for them in the working folder."""

    def located(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: located(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [located(inner) for inner in value]
        return str(folder / value) if isinstance(value, str) and (folder / value).exists() else value

    if "data_files" in (given := config.get("dataset_kwargs") or {}):
        config["dataset_kwargs"] = {**given, "data_files": located(given["data_files"])}


def _override(task: Task, settings: SuiteSettings) -> None:
    fewshot = task.config.num_fewshot
    if fewshot is None or (settings.fewshot is not None and fewshot != 0):
        task.set_config(key="num_fewshot", value=settings.fewshot or 0)
    if settings.max_new_tokens is not None and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value={"max_gen_toks": settings.max_new_tokens}, update=True)
    task.set_fewshot_seed(seed=settings.seed)


def gather_examples(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each example with the hash of its content, all its scores, and what was generated, in the task's order."""
    examples: dict[int, dict[str, Any]] = {}
    for sample in samples:  # one for each example and filter
        one = examples.setdefault(
            sample["doc_id"], {"example": sample["doc_id"], "hash": sample["doc_hash"], "scores": {}}
        )
        for metric in sample["metrics"]:
            if isinstance(value := sample[metric], (bool, int, float, np.number)):
                one["scores"][_metric_name(metric, sample["filter"])] = float(value)
        if isinstance(answer := sample["resps"][0][0], str):
            one["answer"] = answer
    return list(examples.values())


def _metric_name(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric},{filtered}"


def _metrics(found: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Take lm_eval's flat entries (`acc,none`, `acc_stderr,none`) apart."""
    metrics = {}
    for entry, value in found.items():
        metric, comma, filtered = entry.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            error = found.get(f"{metric}_stderr,{filtered}")
            known = float(error) if isinstance(error, (int, float)) else None
            metrics[_metric_name(metric, filtered)] = {"value": float(value), "stderr": known}
    return metrics


def primary(metrics: dict[str, Any]) -> str:
    """Return the metric that tables show: the first of the preferred ones, else the task's first."""
    if not metrics:
        raise BadInput("a task gave no number; it needs a metric that is a mean over examples, such as acc.")
    ranked: Iterator[str] = (name for wanted in PREFERRED for name in metrics if name.partition(",")[0] == wanted)
    return next(ranked, next(iter(metrics)))


def mean_and_error(scores: list[float]) -> dict[str, float | None]:
    """Return a mean with its standard error, None for fewer than two scores."""
    error = float(np.std(scores, ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else None
    return {"value": float(np.mean(scores)), "stderr": error}


def chance(samples: list[dict[str, Any]]) -> float | None:
    """Return the accuracy of guessing in a multiple-choice task, None for others."""
    choices = [len(sample["resps"]) for sample in samples]
    if not choices or isinstance(samples[0]["resps"][0][0], str) or min(choices) < 2:
        return None
    return float(np.mean([1 / count for count in choices]))
