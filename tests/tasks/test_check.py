"""A source that is not read as it was trained is caught and named before its capture."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.check import CheckSettings, Findings, examine, find_problem
from logitfuse.tasks.models.causal import load_causal_model
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.models.source import Source, read_source
from logitfuse.tasks.packaged.models import fetch_model

pytestmark = pytest.mark.models
SAMPLE = ["def add(a, b):\n    return a + b\n", "Emoji 👩‍👩‍👧 and naïve café."]


def look(settings: ModelSettings) -> tuple[Findings, Source]:
    source = read_source(settings)
    return examine(load_causal_model(source.home.folder, settings.dtype, "cpu"), source, SAMPLE), source


@pytest.mark.parametrize("name", ["smollm2-135m", pytest.param("gemma3-270m", marks=pytest.mark.slow)])
def test_sound_models_pass(name: str) -> None:
    found, source = look(ModelSettings(model=f"package:{name}"))
    assert find_problem(found, source, CheckSettings()) is None
    assert found.nats_per_byte < 0.9 and found.round_trip and found.unknown_ends == 0


@pytest.mark.slow
def test_a_teacher_without_its_bos_is_told_to_take_it() -> None:
    found, source = look(ModelSettings(model="package:gemma3-270m", start="none"))
    problem = find_problem(found, source, CheckSettings())
    assert problem is not None and "'gemma3-270m'" in problem and "start to 'bos'" in problem
    assert found.other_start is not None and found.nats_per_byte > 1.5 * found.other_start


def test_another_models_tokenizer_is_noticed(tmp_path: Path) -> None:
    folder = shutil.copytree(fetch_model("smollm2-135m"), tmp_path / "mixed")
    spec = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = spec["model"]["vocab"]
    ordinary = [piece for piece, token in vocabulary.items() if token >= 300]
    for piece, token in zip(ordinary, [vocabulary[p] for p in ordinary[7:] + ordinary[:7]], strict=True):
        vocabulary[piece] = token  # the same pieces, their ids moved by seven
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    AutoTokenizer.from_pretrained(folder)
    found, source = look(ModelSettings(model=str(folder)))
    problem = find_problem(found, source, CheckSettings())
    assert problem is not None and "'mixed'" in problem and "tokenizer is another model's" in problem
    assert find_problem(found, source, CheckSettings(nats_per_byte=None)) is None


def test_a_head_narrower_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(fetch_model("smollm2-135m"), tmp_path / "narrow")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 49_000}))
    with pytest.raises(ModelRefused, match=r"knows 49152 tokens, its head predicts only 49000"):
        read_source(ModelSettings(model=str(folder)))


def test_each_problem_has_words_of_its_own() -> None:
    source = read_source(ModelSettings(model="package:smollm2-135m"))
    sound = {"nats_per_byte": 0.6, "other_start": 0.7, "corpus_nats_per_byte": 0.7, "round_trip": True}
    for change, words in (
        ({"unknown_ends": 0.5}, "50% of its tokens cannot be traced"),
        ({"nats_per_byte": float("nan")}, "not finite"),
        ({"nats_per_byte": 1.2}, "start to 'none'"),
        ({"nats_per_byte": 2.5, "other_start": None}, "2.50 nats per byte"),
    ):
        found = Findings(**({"unknown_ends": 0.0, "tokens": 9, "batches": "packed"} | sound | change))
        assert words in (find_problem(found, source, CheckSettings()) or "")
