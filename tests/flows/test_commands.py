"""What all commands have in common: help with examples that work, completion, JSON, loudness, exit codes, docs."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from command_line import answer
from typer.testing import CliRunner

from logitfuse.flows import completion
from logitfuse.flows.cli import app
from logitfuse.flows.commands_page import commands, examples, renewed
from logitfuse.flows.exit_codes import MEANING, ExitCode
from logitfuse.flows.show import console
from logitfuse.tasks.recipe import read_recipe
from logitfuse.tasks.stages import ORDER

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "commands.md").read_text(encoding="utf-8")
JSON = [name for name, command in commands().items() if any("--json" in p.opts for p in command.params)]


@pytest.mark.parametrize("name", commands())
def test_help_has_an_example_that_can_be_read(name: str) -> None:
    command = commands()[name]
    found = examples(command.help)
    assert found, f"logitfuse {name} --help shows no example"
    for line in found:
        words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
        assert words[:2] == ["logitfuse", name], line
        with command.make_context(name, words[2:]):
            pass
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_the_page_of_commands_is_up_to_date() -> None:
    assert renewed(PAGE) == PAGE, "run: python -m logitfuse.flows.commands_page docs/commands.md"
    assert set(MEANING) == set(ExitCode)
    for name in JSON:
        assert name == "study" or f"| `{name}` |" in PAGE, f"docs/commands.md says nothing of logitfuse {name} --json"


def test_the_recipe_on_the_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my.yaml").write_text(text)
    assert read_recipe(str(tmp_path / "my.yaml")).sources[0].label == "gemma3-270m"


def test_versions_are_shown_without_importing_what_is_large() -> None:
    asked = "import sys; from logitfuse.flows.cli import main; sys.argv = ['logitfuse', '--version']\n"
    asked += "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules, 'imported'\n"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == f"logitfuse {version('logitfuse')}" and said[1] == f"python {platform.python_version()}"
    assert f"torch {version('torch')}" in said, said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CliRunner().invoke(app, [], prog_name="logitfuse", env={"_LOGITFUSE_COMPLETE": f"source_{shell}"})
    assert found.exit_code == 0 and "_LOGITFUSE_COMPLETE" in found.output and "logitfuse" in found.output


def completed(shell: str, *words: str) -> str:
    line = shlex.join(["logitfuse", *words[:-1]]) + " " + words[-1]
    of_bash = {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    fish = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment = {"_LOGITFUSE_COMPLETE": f"complete_{shell}", **(of_bash if shell == "bash" else fish)}
    return CliRunner().invoke(app, [], prog_name="logitfuse", env=environment).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_recipes_stages_and_sources_are_completed(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"target": {"model": "a/Big"}, "sources": [{"model": "./small"}]})
    )
    (tmp_path / "folder").mkdir()
    assert "status" in completed(shell, "stat")
    assert "demo" in completed(shell, "run", "de") and "mine.yaml" in completed(shell, "run", "mi")
    assert "folder/" in completed(shell, "run", "fo")
    assert "capture" in completed(shell, "stage", "cap")
    found = completed(shell, "stage", "capture", "mine.yaml", "--source", "")
    assert "big" in found and "small" in found
    assert "gemma3-270m" in completed(shell, "verify", "demo", "--source", "gem")


def test_completion_knows_all_stages_and_never_fails(tmp_path: Path) -> None:
    assert list(completion.STAGES) == ORDER
    assert "fuse.rule=" in completion.complete_field("fuse.ru") and "corpus." in completion.complete_field("cor")
    assert completion.complete_field("no.such.") == [] and completion.complete_recipe("no/such/") == []
    (tmp_path / "bad.yaml").write_text("sources: 3\ntarget: [")
    context: Any = typer.Context(typer.main.get_command(app))
    for recipe in ("no such", str(tmp_path / "bad.yaml"), "\0", str(tmp_path)):
        context.params = {"recipe": recipe}
        assert completion.complete_source(context, "") == []


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["status", "no-such-recipe", "--json"], "BadInput"),
        (["status", "--json", "demo", "--set", "corpus.sauce=1"], "BadInput"),
        (["verify", "demo", "--json", "--no-such-option"], "Usage"),
        (["doctor", "superfluous", "--json"], "Usage"),
        (["status", "demo", "--watch", "--json"], "BadInput"),
    ],
)
def test_what_cannot_be_answered_in_json_is_told_in_json(arguments: list[str], kind: str) -> None:
    found = answer(*arguments)
    error = json.loads(found.out)["error"]
    assert found.code == error["exit_code"] == ExitCode.REFUSED and error["kind"] == kind and error["message"]
    assert not console.stderr, "words go to standard output again"


def test_a_defect_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from logitfuse.flows.doctor import command

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(command, "findings", broken)
    found = answer("doctor", "--json")
    assert found.code == ExitCode.DEFECT and json.loads(found.out)["error"]["kind"] == "Defect"
    assert "Traceback" in found.err and "boom" in found.err


def test_ctrl_c_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from logitfuse.flows.doctor import command

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "findings", interrupted)
    found = answer("doctor")
    assert found.code == ExitCode.INTERRUPTED and "stopped: Ctrl-C" in found.err and "Traceback" not in found.err


def test_quiet_and_verbose_exclude_each_other() -> None:
    for both in (["-q", "-v"], ["-v", "-q"]):
        found = answer("run", "demo", *both)
        assert found.code == ExitCode.REFUSED and "exclude each other" in found.said


def test_verbose_says_where_an_error_comes_from() -> None:
    wrong = ["run", "demo", "--set", "corpus.sauce=1"]
    plain, verbose = answer(*wrong), answer(*wrong, "-v")
    assert plain.code == verbose.code == ExitCode.REFUSED
    assert "Traceback" not in plain.err and "Traceback" in verbose.err and "Did you mean" in verbose.said
    assert "Traceback" not in answer(*wrong).err


def test_the_command_line_starts_without_what_is_heavy() -> None:
    code = "import sys, logitfuse.flows.cli; sys.exit(bool({'torch', 'numpy', 'prefect'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
