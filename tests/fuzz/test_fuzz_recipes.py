"""Recipes, overrides and names that nobody should write: answered in a line or two, never with a traceback."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import answer, check_answer, refused
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE, HOSTILE_TEXTS, damaged, distorted, fuzzing

from logitfuse.storage.settings import Settings
from logitfuse.storage.yaml_text import YamlRefused, parse_yaml
from logitfuse.tasks.recipe import Recipe

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)
NO_YAML = {
    "deep": "a: " + "[" * 5000,
    "deep, closed": "a: " + "[" * 2000 + "]" * 2000,
    "bomb": BOMB,
    "bomb in a field": "name: {" + BOMB.strip().replace("\n", ", ") + "}",
    "its own part": "fuse: &a {options: *a}",
    "chain": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000)),
    "digits": "name: " + "1" * 5000,
    "hexadecimal": "capture: {k: 0x" + "f" * 6000 + "}",
    "date": "name: 2001-99-99",
    "tags": "name: !!int abc",
    "time": "name: !!timestamp abc",
    "truth": "name: !!bool abc",
    "python": "name: !!python/object/apply:os.system ['touch owned']",
    "module": "name: !!python/name:os.system ''",
    "large": "name: " + "x" * (5 << 20),
}


def _fields(model: type[Settings], path: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = _fields(kind, f"{path}{name}.") if isinstance(kind, type) and issubclass(kind, Settings) else []
        found += inner or [path + name]
    return found


COMMANDS = ["run", "status", "stage", "alignment", "results", "convert", "evaluate"]
# Where to save work that is only described is asked by other tests; a million threads nobody needs.
FIELDS = [name for name in _fields(Recipe) if name != "suites.include_path"]


@pytest.mark.parametrize("text", NO_YAML.values(), ids=NO_YAML)
def test_text_that_is_no_recipe(home: Any, text: str) -> None:
    assert "recipe.yaml: not YAML" in (said := refused("status", home.write("recipe.yaml", text.encode()))) or (
        "more than" in said
    )
    assert not Path("owned").exists()


@fuzzing(6)
@given(st.data())
def test_damaged_recipes(home: Any, data: st.DataObject) -> None:
    text = data.draw(damaged(home.recipe.read_bytes()))
    check_answer(answer("status", home.write("damaged.yaml", text)))


@fuzzing(6)
@given(st.data())
def test_distorted_recipes(home: Any, data: st.DataObject) -> None:
    content = data.draw(distorted(home.content))
    check_answer(answer("status", home.write("distorted.yaml", yaml.safe_dump(content).encode("utf-8", "replace"))))


@fuzzing(12)
@given(name=st.sampled_from(FIELDS), value=st.sampled_from(HOSTILE), command=st.sampled_from(["status", "verify"]))
def test_hostile_fields(home: Any, name: str, value: Any, command: str) -> None:
    written = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n")
    check_answer(answer(command, str(home.recipe), "--set", f"{name}={written}"))


@fuzzing(12)
@given(st.text("abc.=[]{}:0123&*!'\" \\\n²", max_size=30) | st.sampled_from([f"{f}.x=1" for f in FIELDS]))
def test_overrides(home: Any, override: str) -> None:
    check_answer(answer("status", str(home.recipe), "--set", override))


@fuzzing(60)
@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("-:[]{}&a*!|>\"'# \n\t?,%@1.", max_size=60))
def test_yaml_is_read_or_refused_in_a_line(text: str) -> None:
    try:
        parse_yaml(text)
    except YamlRefused as error:
        assert "\n" not in str(error)


@fuzzing(20)
@given(st.sampled_from(COMMANDS), st.sampled_from(HOSTILE_TEXTS))
def test_names_on_the_command_line(home: Any, command: str, name: str) -> None:
    good = str(home.recipe)
    arguments = {
        "run": [name, "--plain"],
        "stage": ["encode", good, "--plain", "--source", name],
        "alignment": [good, name],
        "convert": [good, "--to", "compact", "--source", name, "--shards", name],
        "evaluate": [name, "--text", good],
    }
    check_answer(answer(command, *arguments.get(command, [name])))


@pytest.mark.parametrize(
    "override",
    ["name.x=1", "sources.x=1", "sources.99=1", "sources.²=1", "sources.-1.model=x", "a=[", "=1", "name=" + "[" * 999],
)
def test_overrides_that_lead_nowhere(home: Any, override: str) -> None:
    refused("status", str(home.recipe), "--set", override)


@pytest.mark.parametrize("folder", ["/dev/null", "/proc/x", "", "~nobody-here/x", "a\\0b", "a" * 300, "recipe.yaml/x"])
def test_folders_in_which_no_run_can_be(home: Any, folder: str) -> None:
    folder = str(home.recipe / "x") if folder == "recipe.yaml/x" else folder
    change = ["--set", f'execution.folder="{folder}"']
    refused("run", str(home.recipe), "--plain", "--stop-after", "prepare", *change)


def test_what_is_told_cannot_command_a_terminal(home: Any) -> None:
    for arguments in (["status", "\x1b[2Jx"], ["status", str(home.recipe), "--set", "fuse.\x1b[2J=1"]):
        said = refused(*arguments)
        assert "\\x1b[2J" in said.replace("\n", "")  # long paths wrap the line anywhere
