"""What a user sees of an object store on the command line: one line where something is wrong, and no traceback."""

import sys
from collections.abc import Callable

import pytest
import yaml
from s3_server import KEY, SECRET, Server

from logitfuse.flows.cli import main
from logitfuse.tasks.recipe import Recipe

WHERE = "s3://bucket/runs/tiny"


@pytest.fixture
def told(
    tiny_recipe: Callable[..., Recipe], tmp_path: object, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., tuple[int, str]]:
    """Return what runs a command on a recipe in the bucket and returns its exit code and its words, on one line."""
    recipe = tiny_recipe(execution={"folder": "s3://bucket/runs", "min_free_gb": 0, "device": "cpu"})
    file = f"{tmp_path}/tiny.yaml"
    with open(file, "w") as stream:
        yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), stream)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["logitfuse", words[0], file, *words[1:]])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capfd.readouterr()
        said = " ".join((out + errors).split())
        assert "Traceback" not in said and KEY not in said and SECRET not in said
        return int(ended.value.code or 0), said

    return run


def test_a_run_in_the_bucket_is_made_looked_at_and_refused_in_one_line(
    s3: Server, told: Callable[..., tuple[int, str]]
) -> None:
    code, said = told("run", "--stop-after", "encode", "--plain")
    assert code == 0 and "part-00000: done" in said
    code, said = told("run", "--stop-after", "encode", "--plain")
    assert code == 0 and "prepare to encode: up to date" in said
    assert told("status")[0] == 1
    s3.refuses = True
    code, said = told("status")
    assert code == 2 and f"logitfuse: {WHERE}: " in said and "the store refuses these credentials" in said
    s3.refuses = False
    s3.remove_bucket()
    for command in (["run", "--plain"], ["status"], ["verify"]):
        code, said = told(*command)
        assert code == 2 and f"logitfuse: {WHERE}: " in said and "there is no such bucket" in said, command
