"""Stage suites: what is refused, what is asked, what is kept, and that only what is missing is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper_models import tiny_llama, tiny_mpt
from suites_in_small import write_choice, write_code

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.engine import silent
from logitfuse.tasks.model_comparison import Comparison, compare, run_comparison, suite_rows
from logitfuse.tasks.suite_tasks import definitions, harness
from logitfuse.tasks.suites import check_suites, read_suite_result, tasks_of
from logitfuse.tasks.suites_settings import SuiteSettings
from logitfuse.tasks.unit import Unit

pytest.importorskip("lm_eval", reason="needs the extra logitfuse[suites]")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(tiny_llama(folder)), str(tiny_mpt(folder))]


def asked(folder: Path, models: list[str], **settings: Any) -> tuple[Comparison, list[str]]:
    tasks_of.cache_clear()
    found = compare(models, folder=folder, corpus=None, dtype="float32", device="cpu", suites=SuiteSettings(**settings))
    outcomes = list(run_comparison(found, lambda unit: silent, print))
    return found, [outcome.state for _, outcome in outcomes]


def test_every_model_is_asked_and_only_what_is_missing(tmp_path: Path, models: list[str]) -> None:
    own = {"include_path": str(write_choice(tmp_path / "own"))}
    _, states = asked(tmp_path / "run", models[:1], **own)
    assert states == ["done"]
    _, states = asked(tmp_path / "run", models, **own)
    assert states == ["kept", "done"], "a new model computes only itself"
    write_code(tmp_path / "own")
    own |= {"execute_generated_code": True}
    _, states = asked(tmp_path / "run", models, **own)
    assert states == ["done", "kept", "done", "kept"], "a new task computes only itself"
    write_choice(tmp_path / "own", examples=9)
    assert asked(tmp_path / "run", models, **own)[1] == ["kept", "done", "kept", "done"], "other data, another task"


def test_the_result_says_what_was_measured(tmp_path: Path, models: list[str]) -> None:
    own = write_code(write_choice(tmp_path / "own"))
    settings = {"include_path": str(own), "execute_generated_code": True, "limit": 5}
    found, _ = asked(tmp_path / "run", models, **settings)
    code, choice = (read_suite_result(found.run, Unit("suites", "tiny-llama", n)) for n in (0, 1))
    assert (choice["task"], choice["metric"], choice["n"], choice["lm_eval"]) == ("pick_one", "acc_norm", 5, "0.4.13")
    assert np.isclose(choice["chance"], 1 / 3) and set(choice["metrics"]) == {"acc", "acc_norm"}
    mean = np.mean([one["scores"]["acc"] for one in choice["examples"]])
    assert np.isclose(choice["metrics"]["acc"]["value"], mean) and choice["metrics"]["acc"]["stderr"] is not None
    assert code["metric"] == "pass@1" and code["metrics"]["pass@1"]["value"] == 0.5
    assert code["outcomes"] == {"passed": 1, "failed": 1}
    scores, differences = suite_rows(found)
    assert {row["task"] for row in scores} == {"mean", "pick_one", "write_one"}
    assert {row["model"] for row in differences} == {"tiny-mpt"} and {row["against"] for row in differences} == {
        "tiny-llama"
    }
    paired = next(row for row in differences if row["task"] == "write_one")
    assert (paired["value"], paired["low"], paired["high"]) == (0.0, 0.0, 0.0)


def test_scores_are_those_of_the_models_own_log_probabilities(tmp_path: Path, models: list[str]) -> None:
    """The choice with the highest sum of log-probabilities, with the start token in front, as the recipe has it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found, _ = asked(tmp_path / "run", models[:1], include_path=str(write_choice(tmp_path / "own")))
    result = read_suite_result(found.run, Unit("suites", "tiny-llama", 0))
    model, tokenizer = (kind.from_pretrained(models[0]) for kind in (AutoModelForCausalLM, AutoTokenizer))
    for n, one in enumerate(result["examples"]):
        sums = []
        prompt = tokenizer(f"the cat sat on {n}", add_special_tokens=False).input_ids
        for choice in (" a mat", " dogs", " Zürich"):
            ids = tokenizer(f"the cat sat on {n}{choice}", add_special_tokens=False).input_ids
            with torch.no_grad():
                logprobs = model(torch.tensor([[1, *ids]])).logits[0].log_softmax(-1)
            sums.append(sum(float(logprobs[i, ids[i]]) for i in range(len(prompt), len(ids))))
        assert one["scores"]["acc"] == float(int(np.argmax(sums)) == n % 3)


def test_code_needs_the_permission(tmp_path: Path) -> None:
    tasks_of.cache_clear()
    with pytest.raises(BadInput, match=r"suites\.execute_generated_code"):
        check_suites(SuiteSettings(include_path=str(write_code(tmp_path / "own"))))
    with pytest.raises(BadInput, match=r"suites\.execute_generated_code"):
        check_suites(SuiteSettings(names=("code",)))
    check_suites(SuiteSettings(names=("code",), execute_generated_code=True))


def test_code_that_lm_eval_would_run_itself_is_refused(tmp_path: Path) -> None:
    tasks_of.cache_clear()
    folder = write_code(tmp_path / "own")
    (folder / "code.yaml").write_text((folder / "code.yaml").read_text() + "unsafe_code: true\n")
    with pytest.raises(BadInput, match="inside this process"):
        check_suites(SuiteSettings(include_path=str(folder), execute_generated_code=True))


def test_the_extra_is_asked_for_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise harness.PackageNotFoundError(name)

    monkeypatch.setattr(harness, "version", missing)
    check_suites(SuiteSettings())
    with pytest.raises(BadInput, match=r"pip install 'logitfuse\[suites\]'"):
        check_suites(SuiteSettings(names=("bbh",)))


def test_what_cannot_be_asked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="listed twice"):
        SuiteSettings(tasks=("a", "a"))
    with pytest.raises(BadInput, match="is no folder"):
        check_suites(SuiteSettings(include_path=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="defines a task"):
        check_suites(SuiteSettings(include_path=str(tmp_path / "empty")))
    (tmp_path / "empty" / "x.yaml").write_text("task: [\n")
    with pytest.raises(BadInput, match=r"x\.yaml: not a task file"):
        check_suites(SuiteSettings(include_path=str(tmp_path / "empty")))


def test_the_named_suites_are_lm_evals_own_files() -> None:
    tasks_of.cache_clear()
    tasks = tasks_of(SuiteSettings(names=("bbh", "common_sense")))
    assert len(tasks) == 32 and all(task.file and task.file.is_file() for task in tasks)
    assert all(task.config["num_fewshot"] == 3 for task in tasks if task.suite == "bbh")
    assert all(not task.config.get("num_fewshot") for task in tasks if task.suite == "common_sense")
    assert {task.config["output_type"] for task in tasks if task.suite == "common_sense"} == {"multiple_choice"}
    names = {task.name: definitions.read_task(task.file)["task"] for task in tasks if task.file}
    assert all(name == own for name, own in names.items())


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = write_choice(tmp_path / "own")
    (folder / "again.yaml").write_text((folder / "pick.yaml").read_text() + "description: other\n")
    with pytest.raises(BadInput, match="two tasks are called 'pick_one'"):
        tasks_of.__wrapped__(SuiteSettings(include_path=str(folder)))


def test_what_is_free_is_in_no_key() -> None:
    plain = SuiteSettings().of_task(runs_code=False)
    asked = SuiteSettings(names=("code",), tasks=("x",), execute_generated_code=True, program_seconds=3)
    assert asked.of_task(runs_code=False) == plain
    assert asked.of_task(runs_code=True).program_seconds == 3
    assert SuiteSettings(limit=3).of_task(runs_code=False) != plain
