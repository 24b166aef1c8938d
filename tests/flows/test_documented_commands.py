"""What README and docs say to type about `my.yaml` is typed, in order, on a tiny run with models of those names."""

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import answer, check_answer
from documented import PAGES, arguments_of, lines_to_type
from tiny_models import WORDS, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SOURCES = ("gemma3-270m", "mpt-7b", "tiny-mpt", "other-model")
# What these need is not here, and is tried by tests of its own.
ELSEWHERE = {
    "s3://": "an object store: tests/tasks/test_runs_on_s3.py",
    "execution.processes=8": "GPUs, or minutes: tests/tasks/training/test_spread.py",
    "--watch": "another process: tests/flows/test_live_view.py",
    "--private": "a hub: tests/tasks/test_push.py",
    "--arm control": "a hub: tests/tasks/test_push.py",
    "submit": "a server: tests/flows/test_submit.py",
    "worker-config": "stage train by hand: tests/tasks/training/test_launch.py",
}
ANSWERS_NO = ("plan", "status", "doctor")  # may say so with exit code 1: this run's models are much too bad


def documented() -> list[str]:
    """Return the commands about a recipe of one's own, as the pages have them."""
    lines = (shlex.join(arguments_of(line)) for page in PAGES for line in lines_to_type(page) if "logitfuse " in line)
    return [line for line in dict.fromkeys(lines) if re.search(r"\b(my|recipe)\.yaml\b", line) and "init" not in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of five tiny models, whose run is done."""
    root = tmp_path_factory.mktemp("documented")
    for number, name in enumerate(("target", *SOURCES)):
        tiny_model(root / name, 300 + 10 * number, seed=number)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(20, 60))) for _ in range(40)]
    texts[17] = f"{texts[17]} Stuart MacGill {texts[18]}"
    rows = (json.dumps({"id": f"doc-{number}", "text": text}) for number, text in enumerate(texts))
    (root / "texts.jsonl").write_text("\n".join(rows) + "\n")
    content: dict[str, Any] = {
        "name": "my-run",
        "target": {"model": str(root / "target")},
        "sources": [{"model": str(root / name), "adapt": {"sequence_length": 128}} for name in SOURCES],
        "corpus": {"source": str(root / "texts.jsonl"), "id_column": "id", "documents_per_shard": 8,
                   "held_out_share": 0.3},
        "check": {"nats_per_byte": None},
        "train": {"max_steps": 2, "sequence_length": 128, "tokens_per_step": 512, "control": True},
        "execution": {"folder": str(root / "runs"), "min_free_gb": 0},
    }  # fmt: skip
    for name in ("my.yaml", "recipe.yaml"):
        (root / name).write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        done = answer("run", "my.yaml", "--plain")
    assert done.code == 0, done.err
    return root


@pytest.mark.parametrize("line", documented())
def test_what_is_documented_works(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, why in ELSEWHERE.items():
        if words in line:
            pytest.skip(f"needs {why}")
    monkeypatch.chdir(folder)
    arguments = shlex.split(line)
    plain = ["--plain"] if arguments[0] in ("run", "stage") and "--plain" not in arguments else []
    found = answer(*arguments, *plain)
    check_answer(found)
    assert found.code == 0 or (found.code == 1 and arguments[0] in ANSWERS_NO), found.err
