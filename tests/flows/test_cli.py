"""The command line as a user meets it: what it prints and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import paper_models
import pytest
import yaml
from command_line import answer, refused

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    content = paper_models.recipe_content(folder, folder / "models", documents=12)
    (folder / "my.yaml").write_text(yaml.safe_dump(content))
    return folder / "my.yaml"


def logitfuse(recipe: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "logitfuse.flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=recipe.parent, timeout=300)


@pytest.fixture
def beside_it(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are typed where the recipe lies; in this process where they start nothing: another takes seconds."""
    monkeypatch.chdir(recipe.parent)


def test_a_run_from_start_to_table_and_again(recipe: Path, beside_it: None) -> None:
    before = answer("status", "my.yaml", "--json")
    assert before.code == 1 and {s["state"] for s in json.loads(before.out)["units"]} == {"missing", "waiting"}
    first = logitfuse(recipe, "run", "my.yaml", "--plain")
    assert first.returncode == 0, first.stdout + first.stderr
    for word in ("capture/tiny-mpt/part-00001: done", "Held-out nats per byte", "tiny-llama", "fused", "mean"):
        assert word in first.stdout
    after = answer("status", "my.yaml")
    assert after.code == 0 and "capture" in after.out
    again = answer("run", "my.yaml", "--plain")  # with nothing to do it starts nothing
    assert "prepare to report: up to date" in again.out and "Held-out nats per byte" in again.out
    redone = answer("stage", "fuse", "my.yaml", "--shards", "1", "--redo", "--plain")
    assert "fuse/part-00001: done" in redone.out and "part-00000" not in redone.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml"], ["nowhere.yaml", "no such file", "Shipped"]),
        (["run", "my.yaml", "--set", "train.clm_weight=2"], ["train.clm_weight", "less than or equal to 1"]),
        (["run", "my.yaml", "--set", "corpus.sauce=x"], ["corpus.sauce", "Did you mean 'source'"]),
        (["run", "my.yaml", "--start-at", "fuze"], ["'fuze'", "Did you mean 'fuse'"]),
        (["run", "my.yaml", "--start-at", "fuse", "--stop-after", "map"], ["comes after"]),
        (["stage", "capture", "my.yaml", "--shards", "4-"], ["4-", "0-9"]),
        (["stage", "capture", "my.yaml", "--source", "gpt5"], ["gpt5", "no such source"]),
    ],
)
def test_mistakes_are_answered_in_plain_words(beside_it: None, arguments: list[str], words: list[str]) -> None:
    said = refused(*arguments, "--plain")
    for word in words:
        assert word in said


def test_what_runs_the_code_of_others_is_said_first(recipe: Path, beside_it: None, tmp_path: Path) -> None:
    said = refused("run", "my.yaml", "--plain", "--set", "suites.include_path=nowhere")
    assert "no folder" in said or "logitfuse[suites]" in said  # where that is not installed
    ours = ["--set", f"suites.include_path={tmp_path}", "--set", "suites.execute_generated_code=true"]
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    said = answer("run", "my.yaml", "--plain", "--stop-after", "prepare", *ours).err
    assert said.count("Code of others:") == 2 and "run as you" in said and "not an attacker" in said
