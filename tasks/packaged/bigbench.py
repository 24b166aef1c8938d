"""The BIG-bench tasks that Big-Bench Hard was taken from. They are its parents, not BBH: other examples, no reasoning.

24 of 27: the package makes boolean_expressions, multistep_arithmetic and web_of_lies by programs, which are not run.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from logitfuse.tasks.packaged.pinned import PackageFile

PACKAGE = PackageFile(
    "bigbench==1.0.0",
    "bigbench-1.0.0.tar.gz",
    "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    backend="setuptools.build_meta",
)
PARENTS = (
    "causal_judgment", "date_understanding", "disambiguation_qa", "dyck_languages",
    "formal_fallacies_syllogisms_negation", "geometric_shapes", "hyperbaton", "logical_deduction/three_objects",
    "logical_deduction/five_objects", "logical_deduction/seven_objects", "movie_recommendation", "navigate",
    "object_counting", "penguins_in_a_table", "reasoning_about_colored_objects", "ruin_names",
    "salient_translation_error_detection", "snarks", "sports_understanding", "temporal_sequences",
    "tracking_shuffled_objects/three_objects", "tracking_shuffled_objects/five_objects",
    "tracking_shuffled_objects/seven_objects", "word_sorting",
)  # fmt: skip
MEMBERS = tuple(f"*/bigbench/benchmark_tasks/{parent}/task.json" for parent in PARENTS)
PREFIX = "bigbench_parent_"
EXAMPLES = 250  # of each, as BBH has; some parents have 50,000
INPUT, OUTPUT, CHOICE = "\nQ: ", "\nA: ", "\n  choice: "  # what BIG-bench puts around an example unless told otherwise


def write_tasks(files: list[Path], folder: Path) -> None:
    """Write a task file and its examples for each parent; `files` are their task.json, in the order of PARENTS."""
    for parent, file in zip(PARENTS, files, strict=True):
        content = json.loads(file.read_text("utf-8"))
        name = PREFIX + parent.replace("/", "_")
        rows = example_rows(content, parent)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        task = task_file(name, "choices" in rows[0])
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")


def example_rows(content: dict[str, Any], parent: str) -> list[dict[str, Any]]:
    """Return at most EXAMPLES examples with their prompts, in an order of their own, so that any first part is fair."""
    rows = {_identity(example): _row(content, example) for example in content["examples"]}  # some are there twice
    ordered = sorted(rows, key=lambda text: hashlib.sha256(f"{parent}\n{text}".encode()).digest())
    return [row for text in ordered if (row := rows[text]) is not None][:EXAMPLES]


def _identity(example: dict[str, Any]) -> str:
    """One text may be asked several questions, which only its choices tell apart."""
    return json.dumps([example["input"], example.get("target_scores", example.get("target"))])


def _row(content: dict[str, Any], example: dict[str, Any]) -> dict[str, Any] | None:
    before = content.get("example_input_prefix", INPUT) + example["input"]
    after = content.get("example_output_prefix", OUTPUT)
    prefix = content.get("task_prefix", "")
    if "target_scores" not in example:
        targets = example["target"] if isinstance(example["target"], list) else [example["target"]]
        return {"prompt": (prefix + before + after).strip(), "targets": [str(target) for target in targets]}
    choices = _choices(example)
    if choices is None:
        return None
    listed = content.get("choice_prefix", CHOICE)
    inside = "".join(listed + choice for choice in choices) if content.get("append_choices_to_input", True) else ""
    gold = next(number for number, choice in enumerate(choices) if example["target_scores"][choice] == 1)
    return {"prompt": (prefix + before + inside + after).strip(), "choices": choices, "gold": gold}


def _choices(example: dict[str, Any]) -> list[str] | None:
    """Return the choices in an order that does not depend on which is right; of several right ones the first counts.

    None where no choice is wholly right.
    """
    scores = example["target_scores"]
    right = [choice for choice, score in scores.items() if score == 1]
    if not right:
        return None
    kept = [choice for choice in scores if choice == right[0] or scores[choice] == 0]
    return sorted(kept, key=lambda choice: hashlib.sha256(f"{example['input']}\n{choice}".encode()).digest())


def task_file(name: str, multiple_choice: bool) -> dict[str, Any]:
    """Return what lm-evaluation-harness reads: multiple choice where the parent offers choices, else exact match."""
    task: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    if multiple_choice:
        return task | {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    return task | {
        "output_type": "generate_until",
        "doc_to_target": "targets",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 48, "do_sample": False},
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
             "ignore_punctuation": True}
        ],
        "filter_list": [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    }  # fmt: skip
