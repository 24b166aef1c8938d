"""Task files out of packages: what is asked, in which order, and that nobody takes them for BBH's own."""

import gzip
import json
from pathlib import Path

import pytest
import yaml

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.packaged import bigbench, humaneval
from logitfuse.tasks.packaged.task_files import fetch_tasks


def test_an_unknown_suite_is_answered_with_the_closest() -> None:
    with pytest.raises(BadInput, match="Did you mean 'bigbench'"):
        fetch_tasks("bigbenh")


def test_the_names_say_that_these_are_the_parents() -> None:
    assert len(bigbench.PARENTS) == 24 and bigbench.PREFIX == "bigbench_parent_"


def test_multiple_choice_keeps_prefixes_and_hides_which_is_right() -> None:
    content = {
        "task_prefix": "Which?\n",
        "examples": [{"input": f"q{n}", "target_scores": {"right": 1, "a": 0, "b": 0}} for n in range(40)],
    }
    rows = bigbench.example_rows(content, "parent")
    assert len(rows) == 40 and {row["choices"][row["gold"]] for row in rows} == {"right"}
    assert {row["gold"] for row in rows} == {0, 1, 2}, "the right one stands anywhere"
    listed = "".join(f"\n  choice: {choice}" for choice in rows[0]["choices"])
    assert rows[0]["prompt"].startswith("Which?\n\nQ: q") and rows[0]["prompt"].endswith(f"{listed}\nA:")


def test_examples_are_limited_shuffled_and_not_doubled() -> None:
    example = {"input": "same text", "target_scores": {"x": 1, "y": 0}}
    other = {"input": "same text", "target_scores": {"v": 1, "w": 0}}
    assert len(bigbench.example_rows({"examples": [example, example, other]}, "p")) == 2
    many = {"examples": [{"input": str(n), "target": [str(n), "n"]} for n in range(1000)]}
    rows = bigbench.example_rows(many, "p")
    assert len(rows) == bigbench.EXAMPLES and rows != sorted(rows, key=lambda row: int(row["targets"][0]))


def test_several_right_choices_leave_one_and_none_leaves_the_example_out() -> None:
    both = {"input": "q", "target_scores": {"2": 1, "two": 1, "3": 0}}
    (row,) = bigbench.example_rows({"examples": [both, {"input": "p", "target_scores": {"a": 0.5, "b": 0.5}}]}, "p")
    assert sorted(row["choices"]) == ["2", "3"] and row["choices"][row["gold"]] == "2"


def test_humaneval_is_written_whole(tmp_path: Path) -> None:
    problems = tmp_path / "HumanEval.jsonl.gz"
    with gzip.open(problems, "wt") as stream:
        stream.writelines(json.dumps({"task_id": n}) + "\n" for n in range(164))
    (tmp_path / "LICENSE").write_text("MIT")
    humaneval.write_tasks([problems, tmp_path / "LICENSE"], tmp_path)
    task = yaml.safe_load((tmp_path / "humaneval_packaged.yaml").read_text())
    assert task["task"] == "humaneval_packaged" and "unsafe_code" not in task
    assert len((tmp_path / humaneval.PROBLEMS).read_text().splitlines()) == 164
