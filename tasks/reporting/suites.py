"""The suites in the report: a table with intervals, and the fused model against the others, example by example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

FUSED = "fused"


def suite_facts(run: Run) -> dict[str, Any]:
    """Return the suites' scores and the fused model's differences; nothing where none was asked."""
    if not run.recipe.suites.wanted:
        return {}
    from logitfuse.tasks.suite_results import score_rows, task_scores
    from logitfuse.tasks.suites import asked_models

    models = asked_models(run)
    tasks = task_scores(run, models)
    differences = [row for other in models if other.label != FUSED for row in _fused(tasks, models, other.label)]
    return {"scores": score_rows(tasks, models), "differences": differences}


def _fused(tasks: Any, models: Any, other: str) -> list[dict[str, Any]]:
    from logitfuse.tasks.suite_results import difference_rows

    return [row for row in difference_rows(tasks, models, other) if row["model"] == FUSED]


def suite_table(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per suite and task with a cell per model: its score, and how far the fused one is above it."""
    given = facts.get("suites") or {"scores": [], "differences": []}
    above = {(row["suite"], row["task"], row["against"]): row for row in given["differences"]}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for score in given["scores"]:
        key = (score["suite"], score["task"])
        row = rows.setdefault(key, {**score, "cells": []})
        row["cells"].append({**score, "fused_above": above.get((*key, score["model"]))})
    return list(rows.values())
