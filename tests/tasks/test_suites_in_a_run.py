"""The suites of a whole run: after evaluate, in the report, with paired differences, and off unless named."""

import json
from pathlib import Path

import paper_models
import pytest
from done_runs import done_run
from suites_in_small import write_choice

from logitfuse.tasks.execute import is_up_to_date
from logitfuse.tasks.report import report_page
from logitfuse.tasks.run import Run

pytestmark = pytest.mark.models


def test_the_report_shows_every_model_and_what_the_fused_one_gained(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra logitfuse[suites]")
    content = paper_models.recipe_content(tmp_path, tmp_path / "models", documents=14)
    content["train"] |= {"tokens_per_step": 2048}
    plain = done_run(content)
    assert plain.units("suites") == [] and is_up_to_date(plain, ["suites"])
    assert json.loads((plain.recipe.folder / "report.json").read_text())["suites"] == {}
    assert "What the models can do" not in report_page(plain).read_text()

    run = done_run({**content, "suites": {"include_path": str(write_choice(tmp_path / "own"))}})
    facts = json.loads((run.recipe.folder / "report.json").read_text())["suites"]
    assert [row["model"] for row in facts["scores"]] == ["tiny-llama", "tiny-mpt", "fused"]
    assert [(row["model"], row["against"]) for row in facts["differences"]] == [
        ("fused", "tiny-llama"),
        ("fused", "tiny-mpt"),
    ]
    assert all(row["low"] <= row["value"] <= row["high"] for row in facts["scores"] + facts["differences"])
    shown = report_page(run).read_text()
    assert "What the models can do" in shown and "pick_one" in shown
    assert is_up_to_date(Run(run.recipe)), "a second run has nothing to do"
