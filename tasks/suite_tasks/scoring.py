"""pass@1: does the program made from a model's completion pass its tests?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.sandbox

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.suite_tasks.programs import Limits, run_program

if TYPE_CHECKING:
    from logitfuse.tasks.engine import Progress
    from logitfuse.tasks.suites_settings import SuiteSettings

PASSED = "passed"


def score_programs(
    template: str,
    docs: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    settings: SuiteSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Run a program for every example, write its score and outcome into it, and return how often each happened."""
    if not settings.execute_generated_code:
        raise BadInput("suites.execute_generated_code is false, so nothing that a model wrote is run.")
    limits = Limits(settings.program_seconds, settings.program_memory_mb)
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    tallied: dict[str, int] = {}
    network = "none"
    for done, (doc, example) in enumerate(zip(docs, examples, strict=True), start=1):
        program = environment.from_string(template).render(**doc, completion=example["answer"])
        judged = run_program(program, limits)
        example["scores"]["pass@1"] = float(judged.outcome == PASSED)
        example["outcome"] = f"{judged.outcome}: {judged.detail}" if judged.detail else judged.outcome
        tallied[judged.outcome] = tallied.get(judged.outcome, 0) + 1
        network = "reachable" if judged.network else network
        progress(done, len(docs))
    return {"outcomes": tallied, "network": network}
