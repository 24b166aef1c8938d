"""Stage report: one page and one JSON file that say what a run gained, from what, and at which cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.storage.shards import verified_folder
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

READS = [
    "encode", "check", "adapt", "capture", "map", "align", "fuse", "headroom", "train", "merge", "evaluate", "suites",
]  # fmt: skip
FILES = ["report.json", "report.html"]


def units(run: Run) -> list[Unit]:
    """One report per run."""
    return [Unit("report")]


def work(run: Run, unit: Unit) -> Work:
    """Describe the report; whatever changes in the run makes a new one."""
    from logitfuse.tasks.reporting.facts import recipe_facts

    records = [run.record(made) for stage in READS for made in run.units(stage)]

    def compute(path: Path, progress: Progress) -> Counts:
        return write_report(run, path)

    described = Work(
        stage="report",
        place="report",
        name="report",
        compute=compute,
        inputs=(*run.shards, *records),
        fingerprints={"recipe": recipe_facts(run)},
        folder=True,
        after=lambda: _publish(run, described),
    )
    return described


def write_report(run: Run, folder: Path) -> Counts:
    """Write report.json and report.html into a folder."""
    from logitfuse.tasks.reporting.cautions import beside_the_answer
    from logitfuse.tasks.reporting.facts import gather
    from logitfuse.tasks.reporting.page import page  # drawing is slow to import, and most commands draw nothing

    facts = gather(run, READS)
    (folder / "report.json").write_text(
        json.dumps(facts, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "report.html").write_text(page(facts), encoding="utf-8")
    return {"models": len({row["model"] for row in facts["results"]}), "warnings": len(beside_the_answer(facts))}


def report_page(run: Run) -> Path:
    """Return the report.html of a run's folder, put there again if it is missing or another recipe's.

    Raises `ShardMissing` before the stage is done.
    """
    run.record(Unit("report"))
    _publish(run, run.work(Unit("report")))
    return run.recipe.folder / "report.html"


def told_report(run: Run) -> tuple[dict[str, Any], Path]:
    """Return what the report of a run says, and its page (`report_page`), which says the same."""
    page = report_page(run)
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8")), page


def in_short(facts: dict[str, Any]) -> list[str]:
    """Say what came of a run in two lines: the verdict, and how many warnings there are with the gravest."""
    from logitfuse.tasks.reporting.cautions import gravest
    from logitfuse.tasks.reporting.headline import headline

    return [line for line in (headline(facts), gravest(facts)) if line]


def _publish(run: Run, described: Work) -> None:
    """Copy the report to where people look for it."""
    record = run.record(Unit("report"))
    for name in FILES:
        run.store.show(name, verified_folder(run.store, record) / name)
