"""A run that has no held-out document ends with a report that says so."""

from pathlib import Path

from done_runs import done_run
from inspected_runs import recipe_content

from logitfuse.tasks.report import report_page


def test_a_run_with_nothing_held_out_gets_its_report(tmp_path: Path) -> None:
    content = recipe_content(tmp_path)
    content["corpus"]["held_out_share"] = 0.0
    run = done_run(content)
    assert "no text was held out" in Path(report_page(run)).read_text()
