"""`logitfuse report`: the page of a finished run, made anew without a model."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import answer, refused
from done_runs import done_run
from tiny_run import write_tiny_run
from transformers import PreTrainedModel

from logitfuse.flows.typed_recipe import forget, note_unless_folder, with_recipe
from logitfuse.tasks.report import in_short


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a run with all its stages done."""
    root = tmp_path_factory.mktemp("reported")
    done_run(write_tiny_run(root))
    return root / "recipe.yaml"


@pytest.fixture
def page(recipe: Path) -> Path:
    """Where people look for its report."""
    return recipe.parent / "runs" / "tiny" / "report.html"


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a model's weights fails."""
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)


def facts(page: Path) -> dict[str, Any]:
    """Return what a report says, but for the moment it was made at."""
    found: dict[str, Any] = json.loads(page.with_suffix(".json").read_text())
    assert found.pop("made")
    return found


def test_by_recipe_and_by_folder_it_says_the_same(recipe: Path, page: Path) -> None:
    before = facts(page)
    for given in (recipe, page.parent):
        page.write_text("an older page")
        found = answer("report", str(given))
        assert found.code == 0 and f"The report: {page}" in found.said, found
        verdict, warnings = in_short(before)
        said = " ".join(found.said.split())
        assert -1 < said.find(verdict) < said.find(warnings) < said.find("The report:"), found
        assert facts(page) == before and before["run"] in page.read_text() and before["results"]
    told = json.loads(answer("report", str(recipe), "--json").out)
    assert told.pop("made") and told == before


def test_what_a_kept_report_says_is_not_believed(page: Path) -> None:
    """It is made of the stages' outputs, not of the report that stood."""
    before = facts(page)
    page.with_suffix(".json").write_text(json.dumps({**before, "made": "now", "results": [], "warnings": ["forged"]}))
    assert answer("report", str(page.parent)).code == 0
    assert facts(page) == before


def test_where_nothing_is_to_report_it_says_what_to_run(recipe: Path, tmp_path: Path) -> None:
    empty = refused("report", str(recipe), "--set", f"execution.folder={tmp_path}")
    assert "nothing lies there to report of" in empty and "Run: logitfuse run" in empty
    assert str(tmp_path) in empty.split("Run:")[1], "the command that it names makes that very run"


def test_of_an_unfinished_run_it_says_to_run_all_that_is_missing(recipe: Path) -> None:
    said = refused("report", str(recipe), "--set", "train.seed=7")
    assert "is not there yet" in said and f"Run: logitfuse run {recipe} --set train.seed=7" in said, said


def test_headroom_and_status_name_the_recipe_as_it_was_typed(recipe: Path) -> None:
    typed = [str(recipe), "--set", "fuse.rule=avg_ce"]
    said = refused("headroom", *typed)
    assert said.endswith(f" Run: logitfuse run {' '.join(typed)} --stop-after fuse"), said
    units = json.loads(answer("status", *typed, "--json").out)["units"]
    missing = [unit["why"] for unit in units if unit["state"] == "missing"]
    assert missing and all(why.endswith(f"Run: logitfuse stage fuse {' '.join(typed)}") for why in missing), missing


def test_a_folder_is_no_recipe_that_a_command_could_take(tmp_path: Path) -> None:
    for given, line in ((str(tmp_path), "logitfuse run RECIPE"), ("my.yaml", "logitfuse run my.yaml")):
        forget()
        try:
            assert note_unless_folder(given) == given
            assert with_recipe("logitfuse run RECIPE") == line
        finally:
            forget()
