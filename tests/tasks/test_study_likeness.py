"""Studies that extend another one, variants that are like another one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.recipe_text import recipe_content
from logitfuse.tasks.study.likeness import flat_settings
from logitfuse.tasks.study.plan import plan
from logitfuse.tasks.study.reading import read_study

FIRST = {
    "name": "first",
    "about": "a",
    "set": {"train": {"max_steps": 10, "learning_rate": 1e-4}, "corpus.max_documents": 5},
    "seeds": [1, 2],
    "variants": {"clm": {"about": "plain", "set": {"train.clm_weight": 1.0}}, "fused": {}},
    "contrasts": [{"of": "fused", "against": "clm"}],
}


def read(folder: Path, **content: Any) -> tuple[Any, dict[str, Any]]:
    (folder / "first.yaml").write_text(yaml.safe_dump(FIRST))
    (folder / "second.yaml").write_text(yaml.safe_dump(content))
    return read_study(str(folder / "second.yaml"))


def test_a_study_extends_another_one(tmp_path: Path) -> None:
    study, base = read(
        tmp_path,
        extends="first.yaml",
        name="second",
        set={"train.max_steps": 20, "corpus": {"test_share": 0.1}},
        variants={"clm": {"seeds": [1]}, "half": {"like": "clm", "times_tokens": 0.5, "set": {"train.seed": 7}}},
    )
    assert (study.name, study.about, study.seeds) == ("second", "a", (1, 2)) and study.contrasts
    assert base["train"] == recipe_content("default")["train"] | {"max_steps": 20, "learning_rate": 1e-4}
    assert base["corpus"]["max_documents"] == 5 and base["corpus"]["test_share"] == 0.1
    assert study.variants["clm"].set == {"train.clm_weight": 1.0} and study.variants["clm"].seeds == (1,)
    half = study.variants["half"]
    assert half.set == {"train.clm_weight": 1.0, "train.seed": 7} and half.about == "plain" and half.seeds == (1,)


def test_a_variant_is_left_out_and_lists_are_replaced(tmp_path: Path) -> None:
    study, _ = read(tmp_path, extends="first.yaml", variants={"clm": None}, contrasts=[], seeds=[3])
    assert list(study.variants) == ["fused"] and study.contrasts == () and study.seeds == (3,)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"extends": "second.yaml"}, "circle"),
        ({"extends": "mian"}, "no shipped study"),
        ({"extends": "first.yaml", "variants": {"a": {"like": "b"}}}, "no other variant"),
        ({"extends": "first.yaml", "variants": {"a": {"like": "b"}, "b": {"like": "a"}}}, "no other variant"),
        ({"extends": "first.yaml", "variants": {"a": {"set": 3}}}, "variants.a.set"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read(tmp_path, **content)


def test_the_study_for_a_gpu_is_main_with_other_sizes() -> None:
    (gpu, base), (main, _) = read_study("gpu-main"), read_study("main")
    compared = {name for contrast in main.contrasts for name in (contrast.of, contrast.against)}
    assert compared | {"own-only", "shuffled", "clm-2x", "clm-4x"} <= set(gpu.variants)
    tokens = base["train"]["max_steps"] * base["train"]["tokens_per_step"]
    assert 9.9e6 < tokens < 10.1e6
    jobs = [str(job) for job in plan(gpu, base)]
    assert sum(job.startswith("clm, ") for job in jobs) == sum(job.startswith("default, ") for job in jobs) == 5
    assert sum(job.startswith("paper, ") for job in jobs) == 2
    for name in ("clm", "default"):
        assert gpu.variants[name].set == flat_settings(main.variants[name].set)


def test_study_main_measures_the_default_recipe() -> None:
    """Its own settings are of text and cost; the sources that some variants name alone are the recipe's."""
    (study, base), recipe = read_study("main"), recipe_content("default")
    assert base["sources"] == recipe["sources"] and base["train"] == recipe["train"] | {"max_steps": 12}
    assert base["capture"]["k"] == recipe["capture"]["k"] and study.variants["default"].set == {}
    alone = [study.variants[name].set["sources"] for name in ("gemma-alone", "copy-alone")]
    assert [source for sources in alone for source in sources] == recipe["sources"]
