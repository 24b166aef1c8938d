"""Stage suites: every model of the run is asked the tasks of lm-evaluation-harness that the recipe names.

One unit per model and task, so that a new model is asked alone and what was answered is never asked again.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.storage.errors import BadInput
from logitfuse.storage.shards import verified_path
from logitfuse.tasks.engine import MADE, Counts, Progress, Work
from logitfuse.tasks.evaluate import Contestant, contestants, model_of
from logitfuse.tasks.suite_tasks.definitions import Definition, chosen_tasks
from logitfuse.tasks.suite_tasks.harness import harness_version
from logitfuse.tasks.suite_tasks.programs import check_programs_run
from logitfuse.tasks.suites_settings import SuiteSettings
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

STAGE = "suites"
FILE = "result.json"
WITHOUT_WEIGHTS = frozenset({"ensemble"})  # roles that are no single model which could be asked


@lru_cache(maxsize=8)
def tasks_of(settings: SuiteSettings) -> tuple[Definition, ...]:
    """Return the tasks that a recipe names; read once per process."""
    return tuple(chosen_tasks(settings)) if settings.wanted else ()


def asked_models(run: Run) -> list[Contestant]:
    """Return the models that are asked."""
    return [contestant for contestant in contestants(run) if contestant.role not in WITHOUT_WEIGHTS]


def units(run: Run) -> list[Unit]:
    """One unit per model and task (its number as shard), a model's tasks together; none unless tasks are named."""
    tasks = range(len(tasks_of(run.recipe.suites)))
    return (
        [Unit(STAGE, contestant.label, number) for contestant in asked_models(run) for number in tasks] if tasks else []
    )


def work(run: Run, unit: Unit) -> Work:
    """Describe asking one model one task."""
    definition = tasks_of(run.recipe.suites)[unit.needed_shard]
    source, made_by = model_of(run, unit.needed_source)
    settings = run.recipe.suites

    def compute(path: Path, progress: Progress) -> Counts:
        from logitfuse.tasks.suite_tasks.asking import ask
        from logitfuse.tasks.suite_tasks.harness import language_model

        model = run.loaded(source)  # it stays: the next unit is most often the same model's
        lm = language_model(model, source, settings.batch_size, progress)
        found = ask(lm, definition, settings, progress)
        (path / FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        return _counts(found)

    return Work(
        stage=STAGE,
        place=f"{STAGE}/{source.label}",  # of a base, where the result stands that it has without adapting
        name="".join(c if c.isalnum() or c in "-_." else "-" for c in definition.name),
        compute=compute,
        settings=settings.of_task(runs_code=definition.runs_code),
        inputs=made_by,
        fingerprints={
            "task": definition.name,
            "definition": definition.fingerprint,
            "model": source.home.fingerprint,
            "tokenizer": source.vocabulary.fingerprint,
            "dtype": source.home.settings.dtype,
            "start": source.start_id,
        },
        folder=True,
    )


def _counts(found: dict[str, Any]) -> Counts:
    value = found["metrics"][found["metric"]]["value"]
    note = f"{found['task']}: {found['metric']} {value:.4f}"
    note += f" (chance {found['chance']:.4f})" if found.get("chance") else ""
    return {"examples": found["n"], "notes": [note], MADE: {"lm_eval": found["lm_eval"]}}


def read_suite_result(run: Run, unit: Unit) -> dict[str, Any]:
    """Return what a unit found; raises `ShardMissing` before it is done."""
    facts: dict[str, Any] = json.loads(verified_path(run.store, run.record(unit)).read_text("utf-8"))
    return facts


def check_suites(settings: SuiteSettings) -> None:
    """Refuse, before any work, what could not be asked at its end; fetches packaged tasks. Raises `BadInput`."""
    if not settings.wanted:
        return
    harness_version()
    tasks = tasks_of(settings)
    inside = [task.name for task in tasks if task.runs_code_inside]
    if inside:
        raise BadInput(
            f"suites: {', '.join(inside)}: lm-evaluation-harness would run what the model wrote inside this process. "
            "logitfuse runs it in a child with limits only: use the suite code or package:humaneval, or a task file "
            "with `metadata: {program: ...}` (docs/evaluation.md)."
        )
    code = [task.name for task in tasks if task.runs_code]
    if code and not settings.execute_generated_code:
        raise BadInput(
            f"suites: {', '.join(code)}: scoring it runs code that a model wrote, on this machine. Allow it with "
            "suites.execute_generated_code=true (--set, or in the recipe) after reading what that means in "
            "docs/evaluation.md, or leave it out."
        )
    if code:
        check_programs_run()
