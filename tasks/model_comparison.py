"""Comparing any models without a recipe: each on the same held-out text, and on suites, cached like a run's stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from logitfuse.kernels.bootstrap import ratio_interval
from logitfuse.storage.errors import BadInput
from logitfuse.storage.paths import user_path
from logitfuse.tasks.arms import arms
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.engine import Outcome, Progress
from logitfuse.tasks.ensemble import ENSEMBLE
from logitfuse.tasks.evaluate import Contestant, EvaluateSettings
from logitfuse.tasks.execute import do_prepare, do_unit
from logitfuse.tasks.execution import Execution
from logitfuse.tasks.merge_settings import MERGED
from logitfuse.tasks.model_labels import names_apart
from logitfuse.tasks.models.folder import check_folder
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.results import MEAN, documents_of
from logitfuse.tasks.run import Run
from logitfuse.tasks.settings_errors import explain
from logitfuse.tasks.suites import STAGE, tasks_of
from logitfuse.tasks.suites_settings import SuiteSettings
from logitfuse.tasks.unit import Unit

Row = dict[str, Any]
ALL = 1 - 1e-12  # the share below which a document's hash lies: each does


@dataclass(frozen=True)
class Comparison:
    """Models that are compared; the first one is what the others are held against."""

    run: Run
    models: list[Contestant]
    with_text: bool


def compare(
    models: Sequence[str],
    *,
    folder: Path,
    corpus: CorpusSettings | None,
    split: str = "validation",
    dtype: str = "bfloat16",
    device: str = "auto",
    suites: SuiteSettings | None = None,
) -> Comparison:
    """Set a comparison up; `models` are folders, hub ids or package:NAME, each optionally as LABEL=MODEL.

    Models of one name, such as two folders `fused`, are called after the folders above them, too (`names_apart`).
    Without a corpus only the suites are asked. Raises `BadInput` or `ModelRefused`.
    """
    settings = _settings(models, dtype)
    try:
        recipe = Recipe(
            name=folder.name or "evaluation",
            target=settings[0],
            sources=tuple(settings[1:]),
            corpus=corpus or CorpusSettings(),
            evaluate=EvaluateSettings.model_validate({"split": split}),
            suites=suites or SuiteSettings(),
            execution=Execution.model_validate({"folder": str(folder.parent), "device": device}),
        )
    except ValidationError as error:
        raise BadInput(
            f"logitfuse evaluate: {explain(error, Recipe).removeprefix('recipe: ')}. Write LABEL=MODEL to name a model."
        ) from None
    run = Run(recipe)
    roles = [Contestant("target", run.target.label)]
    contestants = roles + [Contestant("source", source.label) for source in recipe.sources]
    return Comparison(run, contestants, corpus is not None)


def whole_text(source: str, documents: int | None = None) -> CorpusSettings:
    """Return a corpus of which every document is held out, the first `documents` at most."""
    return CorpusSettings(source=source, held_out_share=ALL, max_documents=documents)


def _settings(models: Sequence[str], dtype: str) -> list[ModelSettings]:
    own = (
        *arms(Recipe()),
        MERGED,
        ENSEMBLE,
    )  # what a run calls models that it makes: results could not tell them apart
    named = [_named(given) for given in models]
    names = names_apart([(name, _whole(model)) for name, model in named], own)
    settings = []
    for given, name, (_, model) in zip(models, names, named, strict=True):
        try:
            one = ModelSettings.model_validate({"model": model, "name": name, "dtype": dtype})
        except ValidationError as error:
            raise BadInput(f"{given}: {explain(error, ModelSettings)}") from None
        if one.label in own:
            raise BadInput(
                f"logitfuse evaluate: {given} would be called {one.label!r}, as a model that a run makes. Give it "
                f"another name, LABEL=MODEL: my-{one.label}={one.model}"
            )
        settings.append(one)
    return settings


def _named(given: str) -> tuple[str, str]:
    """Return the label, empty for none, and the model of LABEL=MODEL; raise `ModelRefused` for what is around one."""
    label, equals, model = given.partition("=")
    label, model = (label, model) if equals else ("", given)
    if (folder := user_path(model, "model")).is_dir():
        check_folder(folder, model)  # first of all: what its name lacks matters only of a model
    return label, model


def _whole(model: str) -> str:
    """Return a folder's whole path, in which stand names that tell it apart; what is no folder as it was given."""
    folder = user_path(model, "model")
    return os.path.abspath(folder) if folder.is_dir() else model


def run_comparison(
    comparison: Comparison, progress: Callable[[Unit], Progress], say: Callable[[str], None]
) -> Iterator[tuple[Unit, Outcome]]:
    """Do what is missing and yield each model's, and each model's and task's, outcome."""
    run = comparison.run
    if comparison.with_text:
        do_prepare(run, progress=progress(Unit("prepare")))
        split = run.recipe.evaluate.split
        if not any(record.counts["splits"].get(split) for record in run.shards):
            raise BadInput(f"{run.recipe.corpus.source}: it has no {split} text. Choose another --split.")
    for unit in _units(comparison):
        yield unit, do_unit(run, unit, progress=progress(unit), say=say)


def _units(comparison: Comparison) -> list[Unit]:
    tasks = range(len(tasks_of(comparison.run.recipe.suites)))
    found = [Unit("evaluate", model.label) for model in comparison.models] if comparison.with_text else []
    return found + [Unit(STAGE, model.label, number) for model in comparison.models for number in tasks]


def loss_rows(comparison: Comparison) -> list[Row]:
    """Return nats per byte of each model and domain over identical bytes, and its paired difference from the first.

    Intervals are 95%, by resampling documents; a difference below zero means that the model is better than the first.
    """
    documents = list(documents_of(comparison.run, comparison.models).values())
    rows = []
    for domain in [*sorted({document.domain for document in documents}), MEAN]:
        chosen = [document for document in documents if domain in (document.domain, MEAN)]
        nats_DS = np.array([document.nats_S for document in chosen])
        bytes_D = np.array([document.bytes for document in chosen], np.float64)
        for s, model in enumerate(comparison.models):
            value = ratio_interval(nats_DS[:, s], bytes_D)
            change = ratio_interval(nats_DS[:, s] - nats_DS[:, 0], bytes_D)
            row = {"model": model.label, "domain": domain, "documents": len(chosen), "bytes": int(bytes_D.sum())}
            row |= {"nats_per_byte": value.value, "low": value.low, "high": value.high}
            rows.append(
                row | {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
            )
    return rows


def suite_rows(comparison: Comparison) -> tuple[list[Row], list[Row]]:
    """Return the suites' scores of each model, and the differences from the first model."""
    from logitfuse.tasks.suite_results import difference_rows, score_rows, task_scores

    tasks = task_scores(comparison.run, comparison.models)
    first = comparison.models[0].label
    return score_rows(tasks, comparison.models), difference_rows(tasks, comparison.models, first)
