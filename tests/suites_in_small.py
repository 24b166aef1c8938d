"""Two tiny tasks of one's own: multiple choice, and code that a random model cannot write."""

import json
from pathlib import Path

import yaml

CHOICE = {
    "task": "pick_one", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "pick.jsonl"}},
    "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}", "doc_to_target": "gold", "num_fewshot": 0, "metadata": {"version": 1.0},
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                    {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
CODE = {
    "task": "write_one", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "code.jsonl"}},
    "output_type": "generate_until", "test_split": "test", "doc_to_text": "{{prompt}}", "doc_to_target": "{{prompt}}",
    "num_fewshot": 0, "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "bypass"}],
    "metadata": {"version": 1.0, "program": "{{test}}\n"},
}  # fmt: skip


def write_choice(folder: Path, examples: int = 6) -> Path:
    """Write the multiple-choice task into a folder."""
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"the cat sat on {n}", "choices": ["a mat", "dogs", "Zürich"], "gold": n % 3}
            for n in range(examples)]  # fmt: skip
    (folder / "pick.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pick.yaml").write_text(yaml.safe_dump(CHOICE))
    return folder


def write_code(folder: Path) -> Path:
    """Write the code task into a folder: its first program always passes, its second never."""
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": "x =", "test": "assert True"}, {"prompt": "y =", "test": "assert False"}]
    (folder / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "code.yaml").write_text(yaml.safe_dump(CODE))
    return folder
