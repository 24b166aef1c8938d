"""The plan on a run's page in Prefect's UI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from logitfuse.flows.artifacts import artifact_key
from logitfuse.flows.plan_tables import NUMBERS, PlanTable, plan_tables
from logitfuse.tasks.markdown_text import plain

if TYPE_CHECKING:
    from logitfuse.tasks.plan.plan import Plan
    from logitfuse.tasks.run import Run


def publish_plan(run: Run, found: Plan, said: str, warn: Callable[[str], None]) -> None:
    """Publish a plan as a Markdown artifact; a server that cannot take it is warned of."""
    from prefect.artifacts import create_markdown_artifact

    try:
        key = artifact_key(run.recipe.name, "plan")
        create_markdown_artifact(plan_text(run, found), key=key, description=plain(said))
    except Exception as error:  # the server's trouble is not the work's
        warn(f"the plan cannot be shown: {type(error).__name__}: {error}. The work goes on.")


def plan_text(run: Run, found: Plan) -> str:
    """Return a plan as Markdown: what does not fit first, then its tables."""
    lines = [f"# {plain(run.recipe.name)}: the plan", ""]
    lines += [f"- **Does not fit:** {plain(reason)}" for reason in found.reasons]
    lines += [f"- **Warning:** {plain(warning)}" for warning in found.warnings]
    for table in plan_tables(run, found):
        lines += ["", *_table(table), "", *(f"{plain(note)}\n" for note in table.notes)]
    lines.append("Times are in `logitfuse plan`, which tries a little of every stage, or is told a GPU.")
    return "\n".join(lines).strip() + "\n"


def _table(table: PlanTable) -> Iterator[str]:
    yield f"## {plain(table.title)}"
    yield ""
    yield _row(table.columns)
    yield "|" + "".join("---:|" if column in NUMBERS else "---|" for column in table.columns)
    yield from (_row(row) for row in table.rows)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(plain(cell.replace("\n", ", ")) for cell in cells) + " |"
