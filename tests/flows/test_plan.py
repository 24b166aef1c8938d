"""`logitfuse plan` as a user meets it, and as a run's first step."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import prefect.artifacts
import pytest
import yaml
from command_line import answer, refused

from logitfuse.flows import pipeline as pipeline_module
from logitfuse.flows.plan_first import plan_first, plan_line
from logitfuse.flows.plan_page import plan_text
from logitfuse.flows.session import sharing
from logitfuse.storage.errors import DoesNotFit
from logitfuse.tasks.plan import plan as planning
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def file(tiny_recipe: MakeRecipe, tmp_path: Path) -> str:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tiny_recipe().model_dump(mode="json")))
    return str(tmp_path / "my.yaml")


def full_disk(monkeypatch: pytest.MonkeyPatch, free: float = 1000.0) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=1e12, used=0, free=free))


def test_a_plan_in_tables_and_in_json(file: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown = answer("plan", file, "--gpu", "h100", "--gpus", "8", "--mfu", "0.5")
    assert shown.code == 0, shown
    for words in ("30", "tokens of first", "capture", "0 of 3", "8 × H100 at 50% of 989 TFLOP/s", "80.0 GB", "fits"):
        assert words in shown.said, words
    facts = json.loads(answer("plan", file, "--no-probe", "--json").out)
    assert facts["goes"] and facts["text"]["documents"]["value"] == 30 and facts["timed"] is None
    assert {row["stage"] for row in facts["stages"]} == set(ORDER) - {"adapt", "merge", "suites"}
    assert sorted(tmp_path.rglob("*")) == before, "a plan changes nothing"


def test_the_table_fits_into_100_columns(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from logitfuse.flows import plan as command

    monkeypatch.setattr(command.console, "_width", 100)
    shown = answer("plan", file, "--gpu", "h100").out
    assert max(map(len, shown.splitlines())) <= 100


def test_everything_that_is_refused_is_told_at_once(file: str) -> None:
    wrong = ["--set", "capture.k=320", "--set", "corpus.text_column=body"]
    shown = answer("plan", file, "--no-probe", *wrong)
    assert shown.code == 1 and "capture.k" in shown.err and "body" in shown.err
    facts = answer("plan", file, "--no-probe", "--json", *wrong)
    assert facts.code == 1 and len(json.loads(facts.out)["refused"]) == 2, facts
    assert answer("plan", file, "--gpu", "h1000").code == 2
    assert answer("plan", file, "--gpu", "h100", "--flops", "1e15").code == 2


def test_a_run_that_cannot_fit_is_not_begun(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full_disk(monkeypatch)
    stopped = answer("run", file, "--plain", "--stop-after", "encode")
    assert stopped.code == 2 and "execution.plan=warn" in stopped.err and "free" in stopped.err
    assert not list((tmp_path / "runs").rglob("*.parquet"))
    warned = answer("run", file, "--plain", "--stop-after", "encode", "--set", "execution.plan=warn")
    assert warned.code == 0 and "WARNING" in warned.said and "encode: 6 done" in warned.said
    again = answer("run", file, "--plain", "--stop-after", "encode")
    assert again.code == 0 and "plan" not in again.said, "nothing to do needs no plan"


def test_what_keeps_a_plan_from_being_made_is_no_end(tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def broken(*_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(planning, "glance", broken)
    assert plan_first(Run(tiny_recipe()), ORDER, said.append) is None
    assert said == ["plan: it cannot be made (RuntimeError: no such thing)"]
    execution = tiny_recipe().execution.model_copy(update={"plan": "skip"})
    assert plan_first(Run(tiny_recipe(execution=execution)), ORDER, said.append) is None and len(said) == 1


def test_a_broken_line_is_told_once(file: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    said = refused("run", file, "--plain", "--stop-after", "prepare", "--set", f"corpus.source={tmp_path}/broken.jsonl")
    assert said.count("line 2: this") == 1 and "plan: it cannot be made of this text" in said, said


def test_the_pipeline_shows_its_plan_and_then_stops(tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, str] = {}
    monkeypatch.setattr(
        prefect.artifacts, "create_markdown_artifact", lambda markdown, key, description: sent.update({key: markdown})
    )
    monkeypatch.setattr(prefect.artifacts, "create_table_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(pipeline_module, "get_run_logger", lambda: logging.getLogger("test"))
    full_disk(monkeypatch)
    with sharing(Run(tiny_recipe())) as session, pytest.raises(DoesNotFit, match=r"execution\.folder"):
        pipeline_module._run_missing(session, ORDER)
    assert "**Does not fit:**" in sent["tiny-plan"] and "| capture | first |" in sent["tiny-plan"]
    assert not session.run.recipe.folder.exists()


def test_names_in_the_page_are_no_markup(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe()
    run = Run(recipe.model_copy(update={"target": recipe.target.model_copy(update={"name": "a_b_"})}))
    text = plan_text(run, planning.glance(run, ORDER))
    assert "a\\_b\\_" in text and "a_b_" not in text


def test_what_the_text_lacks_is_told_in_every_place(file: str, tiny_recipe: MakeRecipe) -> None:
    none = ["--set", "corpus.held_out_share=0", "--set", "corpus.near_duplicate_overlap=null"]
    shown = answer("plan", file, "--no-probe", *none)
    assert shown.code == 0 and "Warning: none of the 30 documents is in split validation" in shown.err
    assert "time left" not in shown.out, "a column of nothing"
    ran = answer("run", file, "--plain", "--stop-after", "encode", *none)
    assert ran.code == 0 and "WARNING: no document is held out" in ran.said
    corpus = tiny_recipe().corpus.model_copy(update={"held_out_share": 0.0})
    run = Run(tiny_recipe(corpus=corpus))
    found = planning.glance(run, ORDER)
    assert found.warnings and all(f"- **Warning:** {line[:20]}" in plan_text(run, found) for line in found.warnings)
    count = len(found.warnings)
    assert plan_line(run, found).endswith("1 warning" if count == 1 else f"{count} warnings")
