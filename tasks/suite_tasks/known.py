"""The suites by name: which tasks of lm-evaluation-harness they are, and the code task that is run in a child."""

from typing import Any

BBH = (
    "boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "dyck_languages",
    "formal_fallacies", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects",
    "logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation",
    "multistep_arithmetic_two", "navigate", "object_counting", "penguins_in_a_table",
    "reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection", "snarks",
    "sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects", "web_of_lies",
    "word_sorting",
)  # fmt: skip

# Task name -> its file among lm-eval's own tasks: found there without reading the 14,000 others (nine seconds).
BUILT_IN: dict[str, dict[str, str]] = {
    "bbh": {f"bbh_cot_fewshot_{name}": f"bbh/cot_fewshot/{name}.yaml" for name in BBH},
    "common_sense": {
        "arc_easy": "arc/arc_easy.yaml",
        "arc_challenge": "arc/arc_challenge.yaml",
        "boolq": "super_glue/boolq/default.yaml",
        "hellaswag": "hellaswag/hellaswag.yaml",
        "openbookqa": "openbookqa/openbookqa.yaml",
    },
}

PROGRAM = "program"  # entry of a task's metadata: the template of the program that judges a completion


def humaneval(name: str, **data: Any) -> dict[str, Any]:
    """Return the task HumanEval under a name, `data` saying where its problems are; logitfuse runs the completions."""
    return {
        "task": name,
        **data,
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{canonical_solution}}",
        "target_delimiter": "",
        "generation_kwargs": {
            "until": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
            "max_gen_toks": 512,
            "do_sample": False,
        },
        "metric_list": [{"metric": "bypass"}],
        "num_fewshot": 0,
        "metadata": {"version": 1.0, PROGRAM: "{{prompt}}{{completion}}\n\n{{test}}\n\ncheck({{entry_point}})\n"},
    }


INLINE: dict[str, dict[str, Any]] = {"code": humaneval("humaneval", dataset_path="openai/openai_humaneval")}
