"""`--json` of the commands that need a run: the answer and nothing else on standard output."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import answer

from logitfuse.flows import json_answers
from logitfuse.storage.errors import SystemRefused
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A recipe whose data stages are done."""
    run = Run(tiny_recipe(map={"strategy": "first_piece"}))
    claim_folder(run.recipe)
    do_prepare(run)
    for stage in ("encode", "check", "capture", "map", "align", "fuse"):
        list(do_units(run, run.units(stage)))
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(run.recipe.model_dump(mode="json", exclude_defaults=True)))
    return path


def facts(code: int, *arguments: str) -> Any:
    found = answer(*arguments, "--json")
    assert found.code == code, found
    return json.loads(found.out)


def test_the_answers_are_as_the_page_says(recipe: Path, tiny_models: list[Path], tmp_path: Path) -> None:
    given, first, second = str(recipe), *map(str, tiny_models)
    status = facts(1, "status", given)
    states = {unit["stage"]: unit["state"] for unit in status["units"]}
    assert status["up_to_date"] is False and (states["fuse"], states["train"], states["evaluate"]) == (
        "done", "missing", "waiting",
    )  # fmt: skip
    verified = facts(0, "verify", given, "--stage", "encode", "--json-file", str(tmp_path / "kept.json"))
    assert (
        set(verified) == {"stages", "faults", "stale"} and json.loads((tmp_path / "kept.json").read_text()) == verified
    )
    (audited,) = facts(0, "audit", given, "--source", "first", "--documents", "2")["sources"]
    assert audited["source"] == "first" and audited["verdict"]
    shards = facts(0, "convert", given, "--to", "compact", "--source", "first", "--shards", "0")["shards"]
    assert [shard["state"] for shard in shards] == ["converted"] and shards[0]["bytes"] < shards[0]["bytes_before"]
    assert {"measured", "rows", "warnings"} <= set(facts(0, "headroom", given))
    assert {"source", "target", "text", "segments", "methods", "maps"} <= set(facts(0, "alignment", first, second))
    compared = facts(
        0, "evaluate", first, second, "--text", str(tmp_path / "corpus.jsonl"), "--folder", str(tmp_path / "e"),
        "--dtype", "float32", "--device", "cpu",
    )  # fmt: skip
    assert set(compared) == {"models", "loss"}


def test_an_override_is_as_an_edited_recipe(recipe: Path) -> None:
    """What depends on it is missing, all else stands; another corpus is another run."""
    done = {u["stage"] for u in facts(1, "status", str(recipe))["units"] if u["state"] == "done"}
    changed = facts(1, "status", str(recipe), "--set", "fuse.rule=avg_ce")["units"]
    assert done - {u["stage"] for u in changed if u["state"] == "done"} == {"fuse"}
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(content | {"fuse": {"rule": "avg_ce"}}))
    typed = [unit | {"why": unit["why"].replace(" --set fuse.rule=avg_ce", "")} for unit in changed]
    assert facts(1, "status", str(recipe))["units"] == typed != changed
    other = answer("run", str(recipe), "--plain", "--set", "corpus.source=elsewhere.jsonl").said
    assert "made by other settings" in other


def test_an_answer_that_cannot_be_written_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemRefused, match=r"the answer cannot be written \(No space left on device\)"):
            json_answers.answer({"is": "lost"})
