"""A recipe from answers or flags, whose run is not refused; and what the installation lacks, with how to mend it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import prefect.settings
import pytest
import yaml
from command_line import answer, refused
from typer.testing import CliRunner

from logitfuse.flows import cli
from logitfuse.flows.cli import app
from logitfuse.flows.doctor import machine, network, packages
from logitfuse.flows.init import command as init_command
from logitfuse.flows.init.looks import columns_of
from logitfuse.flows.init.recipe_text import Answers, recipe_text, scalar
from logitfuse.flows.init.sizes import Model, Place, Text, fits, suitable
from logitfuse.flows.prefect_settings import refused_setting
from logitfuse.tasks.checks import check_run
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.recipe import parse_recipe, read_recipe
from logitfuse.tasks.run import Run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number}.txt").write_text(f"text number {number} of forty " * 9)
    return tmp_path


def test_flags_make_a_recipe_that_run_takes(here: Path, tiny_models: list[Path]) -> None:
    first, second = map(str, tiny_models)
    given = ["init", "--target", first, "--source", second, "--corpus", "texts"]
    found = answer(*given)
    assert found.code == 0 and "logitfuse plan first-fused.yaml tells" in found.said, found
    text = (here / "first-fused.yaml").read_text()
    assert text.count("#") > 15 and "40 documents" in text
    recipe = read_recipe("first-fused.yaml")
    check_run(Run(recipe))
    assert recipe.corpus.held_out_share == 0.3 and recipe.train.sequence_length == 256, "the model's context"
    assert "is there already" in refused(*given)
    assert answer(*given, "--force", "--name", "other", "--out", "first-fused.yaml").code == 0
    assert read_recipe("first-fused.yaml").name == "other"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--target", "./nowhere"], ["no such folder"]),
        (["--source", "package:smolm2"], ["smollm2-135m"]),
        (["--corpus", "nowhere.jsonl"], ["no file or folder"]),
        (["--corpus", "other.jsonl"], ["no column 'text'", "'body'", "Give --text-column one"]),
        (["--name", "a/b"], ["name", "letters"]),
        (["--folder", "s3://me:secret@bucket/runs"], ["Leave them out"]),
        (["--source", ""], ["--source MODEL", "missing"]),
    ],
)
def test_what_run_would_refuse_is_refused_at_once(
    here: Path, tiny_models: list[Path], changed: list[str], words: list[str]
) -> None:
    (here / "other.jsonl").write_text('{"body": "a text"}\n')
    options = {"--target": str(tiny_models[0]), "--source": str(tiny_models[1]), "--corpus": "texts"}
    options |= dict(zip(changed[::2], changed[1::2], strict=True))
    said = refused("init", "--out", "my.yaml", *(word for option in options.items() for word in option if option[1]))
    assert all(word in said for word in words) and "secret" not in said and not (here / "my.yaml").exists(), said


def test_a_misspelt_folder_is_not_looked_for_on_a_hub(here: Path) -> None:
    (here / "models" / "student").mkdir(parents=True)
    said = refused("init", "--target", "models/studnt", "--source", "models/student", "--corpus", "texts")
    assert "there is no such folder" in said and "logitfuse init --no-check" in said and "'models/student'" in said, (
        said
    )


def test_without_a_terminal_nothing_is_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused("init")
    assert "--target MODEL, --source MODEL, --corpus TEXT is missing" in said


def test_answers_are_looked_at_and_asked_again(
    here: Path, tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "other.jsonl").write_text("".join(json.dumps({"body": f"a text {n}"}) + "\n" for n in range(9)))
    monkeypatch.setattr(init_command, "_is_asked_in_a_terminal", lambda: True)
    first, second = map(str, tiny_models)
    (here / "runs" / "taken").mkdir(parents=True)
    (here / "runs" / "taken" / "run.json").write_text('{"format": 1, "target": ["other", ""]}')
    typed = ["./nowhere", first, second, second, "", "nothing.jsonl", "other.jsonl", "body", "taken", "mine"]
    found = CliRunner().invoke(app, ["init"], input="".join(f"{line}\n" for line in typed))
    assert found.exit_code == 0, found.output
    for words in (
        "no such folder",
        "is named already",
        "no file or folder",
        "Which column holds the text? (body)",
        "made by other settings",
    ):
        assert words in " ".join(found.output.split()), found.output
    recipe = read_recipe("mine.yaml")
    assert (recipe.name, recipe.corpus.text_column, len(recipe.sources)) == ("mine", "body", 1)


def test_the_column_with_the_longest_texts_is_proposed_and_never_an_id(here: Path) -> None:
    rows = [{"id": f"a very long name of document {n}", "title": "t", "body": "words"} for n in range(3)]
    (here / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert columns_of(CorpusSettings(source="other.jsonl")) == ["body", "title", "id"]


def test_unchecked_a_recipe_can_be_of_models_that_are_elsewhere(here: Path) -> None:
    given = ["--target", "meta-llama/Llama-2-7b-hf", "--source", "mosaicml/mpt-7b", "--corpus", "JeanKaddour/minipile"]
    assert answer("init", *given, "--no-check", "--out", "big.yaml").code == 0
    recipe = read_recipe("big.yaml")
    assert recipe.train.learning_rate == 1e-5 and recipe.train.tokens_per_step == 262_144


@pytest.mark.parametrize("name", ["yes", "1e5", "a: b", "#x", "ü", "two words", "null", "'", '"', "{", "s3://b/c", "-"])
def test_whatever_is_answered_stands_in_the_yaml(name: str) -> None:
    assert yaml.safe_load(f"x: {scalar(name)}") == {"x": name}
    sizes = suitable(Text(10, 1000), Model(), Place())
    content = yaml.safe_load(recipe_text(Answers("run", name, ["./other"], name, name), sizes))
    assert content["target"]["model"] == content["corpus"]["source"] == content["corpus"]["text_column"] == name
    if name != "-":
        parse_recipe(content, "test")


def test_sizes_suit_the_machine_and_the_text() -> None:
    huge, small = Text(20_000, 10**8, counted=False), Text(100, 200_000)
    cpu, gpu, many = Place(), Place(1, 80.0), Place(8, 80.0)
    assert suitable(small, Model(135_000_000, 2048), cpu).tokens_per_step == 4096
    assert suitable(huge, Model(7_000_000_000, 4096), gpu).tokens_per_step == 262_144
    large = suitable(huge, Model(7_000_000_000, 4096), many)
    assert large.sharded and large.processes == 8 and large.gradient_checkpointing and large.learning_rate == 1e-5
    assert not suitable(huge, Model(1_000_000_000, 4096), many).sharded
    for text in (huge, small, Text(1, 1), Text(0, 0)):
        for place in (cpu, gpu, many):
            sizes = suitable(text, Model(None, 128), place)
            assert sizes.sequence_length == 128 <= sizes.micro_batch_tokens and 0 < sizes.held_out_share <= 0.3
    short = suitable(small, Model(1, 2048), cpu, [Model(1, 512)]).max_chunk_bytes
    assert short == 1024, "what is beyond the shortest context is predicted by no one"
    assert suitable(huge, Model(1, 4096), gpu).max_chunk_bytes is None, "the default"
    assert "train.lora" in fits(Model(7_000_000_000), [], gpu) and "a source" in fits(Model(1), [Model(10**11)], gpu)
    assert fits(Model(7_000_000_000), [Model(7_000_000_000)], many) == "" == fits(Model(10**12), [], cpu)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def get(url: str, **_: Any) -> httpx.Response:
        asked.append(url)
        raise httpx.ConnectError("no network")

    monkeypatch.setattr(httpx, "get", get)
    return asked


def test_doctor_finds_nothing_broken_here_and_asks_nobody(here: Path, no_network: list[str]) -> None:
    found = answer("doctor", "--offline", "--json")
    facts = json.loads(found.out)
    assert found.code == 0 and facts["ok"] and no_network == [], found
    names = {check["name"] for check in facts["checks"]}
    assert {
        "Python",
        "needed packages",
        "torch",
        "memory",
        "open files",
        "run folder",
        "cache",
        "server",
        "hub",
    } <= names
    assert all(check["mend"] for check in facts["checks"] if check["state"] != "fine")


def test_doctor_says_how_to_mend_a_server_and_shows_no_secret(
    here: Path, no_network: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = network._server("http://me:secret@prefect.example.org:4200/api", "me:secret", "secret", ask=True)
    assert server.state == "broken" and "http://prefect.example.org:4200/api does not answer" in server.found
    assert "logitfuse up" in server.mend and len(no_network) == 1
    found = answer("doctor", "--folder", str(tmp_path))
    assert "hf_secret" not in found.said and "secret" not in str(server) and "does not answer" in found.said


@pytest.mark.parametrize("url", ["http://me:secret@host:port/api", "http://me:secret@[::1/api"])
def test_doctor_survives_an_address_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr("prefect.settings.get_current_settings", lambda: prefect.settings.Settings())
    for found in (network._server(url, None, None, ask=True), *network.check_prefect(ask=True)):
        assert found.name == "version" or (found.state == "broken" and found.mend and "secret" not in str(found))


@pytest.mark.parametrize(("name", "why"), [("PREFECT_SERVER_API_PORT", "integer"), ("PREFECT_LOGGING_LEVEL", "DEBUG")])
def test_a_setting_that_prefect_cannot_use_is_named(name: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of Prefect's groups of settings it belongs to, and without its value: it may be a secret."""
    monkeypatch.setenv(name, "secret")
    monkeypatch.setattr("prefect.settings.get_current_settings", lambda: prefect.settings.Settings())
    found = list(network.check_prefect(ask=False))[-1]
    assert found.state == "broken" and name in found.found and why in found.found and "secret" not in str(found)
    monkeypatch.setattr(cli, "app", lambda **_: prefect.settings.Settings())
    said = refused("run", "tiny")
    assert f"Prefect's setting {name}: " in said and "unset it" in said and "secret" not in said
    assert refused_setting(ValueError("of another kind")) is None


@pytest.mark.parametrize(
    ("status", "text", "state", "words"),
    [(200, '"3.8.8"', "fine", "answers"), (200, '"3.0.0"', "note", "3.0.0"), (401, "", "broken", "password"),
     (404, "", "broken", "404")],
)  # fmt: skip
def test_what_a_server_answers(status: int, text: str, state: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(status, text=text))
    monkeypatch.setattr(network, "version", lambda _: "3.8.8")
    found = network._server("http://localhost:4200/api", None, None, ask=True)
    assert found.state == state and words in found.found and (found.mend or state == "fine")


def test_doctor_names_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"prefect": "2.0.0"}
    real: Callable[[str], str] = packages.version
    monkeypatch.setattr(packages, "version", lambda name: versions.get(name) or real(name))
    broken = next(found for found in packages.check_packages() if found.state == "broken")
    assert "prefect 2.0.0 does not fit ==3.8.8" in broken.found and broken.mend == "pip install 'prefect==3.8.8'"


def test_doctor_sees_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    found = {finding.name: finding for finding in machine.check_disks(tmp_path / "runs")}
    assert found["run folder"].state == "broken" and "execution.folder" in found["run folder"].mend
    monkeypatch.setattr(machine, "FEW_HANDLES", 1 << 62)
    assert any("ulimit -n" in finding.mend for finding in machine.check_machine()) or sys.platform != "linux"
