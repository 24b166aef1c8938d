"""`logitfuse evaluate`: any models on the same text and tasks, without a recipe."""

import json
from pathlib import Path

import pytest
from paper_models import tiny_llama, tiny_mpt, write_corpus
from suites_in_small import write_choice
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.storage.errors import BadInput, ModelRefused
from logitfuse.tasks.model_comparison import _settings
from logitfuse.tasks.model_labels import model_label, names_apart
from logitfuse.tasks.suites import tasks_of

pytestmark = pytest.mark.models
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(tiny_llama(folder)), f"other={tiny_mpt(folder)}"]


def evaluate(*arguments: str) -> str:
    tasks_of.cache_clear()
    done = RUNNER.invoke(app, ["evaluate", *arguments, "--dtype", "float32", "--device", "cpu"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_models_on_a_text_with_paired_differences(tmp_path: Path, models: list[str]) -> None:
    text, numbers = write_corpus(tmp_path / "text.jsonl", 14), tmp_path / "numbers.json"
    given = [*models, "--text", str(text), "--folder", str(tmp_path / "kept"), "--json-file", str(numbers)]
    assert "evaluate/other: done" in evaluate(*given)
    rows = json.loads(numbers.read_text())["loss"]
    assert {row["model"] for row in rows} == {"tiny-llama", "other"}
    assert {row["domain"] for row in rows} == {"prose", "mixed", "mean"}
    size = sum(len(json.loads(line)["text"].encode()) for line in text.read_text().splitlines())
    assert all(0.9 * size < row["bytes"] <= size for row in rows if row["domain"] == "mean"), "every document is scored"
    first, other = (next(r for r in rows if (r["model"], r["domain"]) == (m, "mean")) for m in ("tiny-llama", "other"))
    assert first["difference"] == 0 and first["difference_low"] == first["difference_high"] == 0
    assert other["difference"] == pytest.approx(other["nats_per_byte"] - first["nats_per_byte"])
    assert other["difference_low"] <= other["difference"] <= other["difference_high"]
    again = evaluate(*given)
    assert "done in" not in again and again.count("up to date") == 2
    assert "done in" not in evaluate(models[1], *given[2:-2]), "held against another first model, nothing is computed"


def test_suites_alone(tmp_path: Path, models: list[str]) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra logitfuse[suites]")
    own = str(write_choice(tmp_path / "own"))
    shown = evaluate(*models, "--include-path", own, "--limit", "4", "--folder", str(tmp_path / "kept"))
    assert "pick_one" in shown and "33.3" in shown and "4 examples" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --text FILE or --corpus NAME"),
        (["--text", "a", "--corpus", "b"], "give --text FILE or --corpus NAME"),
        (["--suites", "bhb"], "--suites: names"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(arguments: list[str], said: str, models: list[str]) -> None:
    with pytest.raises(BadInput, match=said):
        evaluate(models[0], *arguments)


def test_two_models_of_one_given_name_need_another(models: list[str]) -> None:
    with pytest.raises(BadInput, match=r"evaluate: sources: .*another name\. Write LABEL=MODEL"):
        evaluate(f"a={models[0]}", models[1].replace("other", "a"), "--text", "t.jsonl")


@pytest.mark.parametrize(
    ("given", "called"),
    [
        (["/x/a/fused", "/x/b/fused"], ["a-fused", "b-fused"]),
        (["/x/a/train/fused", "/x/b/train/fused", "/x/c"], ["a-fused", "b-fused", "c"]),
        (["/x/a/fused"], ["a-fused"]),  # alone a run's own name
        (["mine=/x/a/m", "/x/b/m", "/y/b/m"], ["mine", "x-m", "y-m"]),
        (["package:smollm2-135m", "Me/smollm2-135m"], ["package-smollm2-135m", "me-smollm2-135m"]),
        (["s3://one/m", "s3://two/m/"], ["one-m", "two-m"]),
        (["m", "m"], ["m", "m"]),  # the same one, which is refused in words
        (["/q/a/m", "/r/a/m", "a-m=/y"], ["q-m", "r-m", "a-m"]),
    ],
)
def test_models_of_one_name_are_told_apart_by_what_is_above_them(given: list[str], called: list[str]) -> None:
    pairs = [(name, model) if equals else ("", name) for name, equals, model in (one.partition("=") for one in given)]
    names = names_apart(pairs, ("fused", "control"))
    assert [model_label(name, model) for name, (_, model) in zip(names, pairs, strict=True)] == called


def test_folders_of_one_name_are_compared(tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "fused").symlink_to(models[0])
    monkeypatch.chdir(tmp_path / "first")
    found = _settings(["fused", "../second/fused", models[1]], "float32")
    assert [model.label for model in found] == ["first-fused", "second-fused", "other"]


def test_a_folder_around_a_model_is_no_model(tmp_path: Path, models: list[str]) -> None:
    around = tmp_path / "runs" / "x" / "train" / "fused"
    around.mkdir(parents=True)
    (around / "model.0").symlink_to(models[0])
    for given in (around, tmp_path / "runs" / "x"):
        with pytest.raises(ModelRefused, match=rf"no config\.json.*within it: {around}/model\.0$"):
            evaluate(str(given), "--text", "t.jsonl")
    with pytest.raises(BadInput, match=rf"would be called 'fused'.*my-fused={models[0]}$"):
        evaluate(f"fused={models[0]}", "--text", "t.jsonl")
