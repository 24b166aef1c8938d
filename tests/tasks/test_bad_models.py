"""Models that are not what they seem: refused before work is lost, or given their own results; never mixed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pytest
import torch
from done_runs import done_run
from safetensors.torch import load_file, save_file

from logitfuse.storage.errors import ModelRefused, ShardCorrupt
from logitfuse.storage.shards import read_batches
from logitfuse.tasks.checks import check_run
from logitfuse.tasks.execute import do_units
from logitfuse.tasks.passages import read_passages, require_own_ids
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.models
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def content(tmp_path: Path, models: Path) -> dict[str, Any]:
    """A recipe whose source is a copy that a test may spoil."""
    made = paper_models.recipe_content(tmp_path, models, documents=10)
    copy = shutil.copytree(made["sources"][0]["model"], tmp_path / "spoilt")
    return made | {"sources": [{"model": str(copy), "dtype": "float32"}]}


def spoilt(content: dict[str, Any]) -> Path:
    return Path(content["sources"][0]["model"])


def rewritten(folder: Path, change: Any) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def refused(content: dict[str, Any]) -> str:
    with pytest.raises(ModelRefused) as caught:
        check_run(Run(parse_recipe(content, "test")))
    assert not Path(content["execution"]["folder"]).exists()
    return str(caught.value)


@pytest.mark.parametrize("cut", [1, 1000, None])
def test_weights_that_end_too_early_are_refused_at_once(content: dict[str, Any], cut: int | None) -> None:
    file = spoilt(content) / WEIGHTS
    file.write_bytes(file.read_bytes()[: -cut if cut else 5])
    assert ("its header says" if cut else "no safetensors header") in refused(content)


def test_weights_of_no_floating_type_are_refused(content: dict[str, Any]) -> None:
    def to_bytes(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith(".weight"))
        tensors[name] = tensors[name].to(torch.int8)

    rewritten(spoilt(content), to_bytes)
    assert "stored as I8" in refused(content)


def test_weights_that_are_no_numbers_are_found_by_every_stage_that_reads_them(content: dict[str, Any]) -> None:
    def to_nan(tensors: dict[str, torch.Tensor]) -> None:
        tensors[max(tensors, key=lambda name: "norm" in name)].fill_(torch.nan)

    rewritten(spoilt(content), to_nan)
    run = done_run(content, ["encode"])
    for unit in (Unit("check", "spoilt"), Unit("capture", "spoilt", 0), Unit("evaluate", "spoilt")):
        with pytest.raises(ModelRefused, match="finite"):
            list(do_units(run, [unit]))


def test_a_head_wider_than_the_tokenizer_never_reaches_the_targets(content: dict[str, Any]) -> None:
    extra = 6

    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name, rows in tensors.items():  # copies of rows that are predicted: padding that is likely
            if name.endswith(("wte.weight", "lm_head.weight", "embed_tokens.weight")):
                tensors[name] = torch.cat([rows, rows[:extra] * 3])

    folder = spoilt(content)
    rewritten(folder, widen)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + extra}))
    run = done_run(content, ["encode", "capture", "map", "align", "fuse"])
    source, target = run.teachers["spoilt"], run.target.vocabulary.size
    assert source.head_width == config["vocab_size"] + extra
    assert ids_of(run, Unit("capture", "spoilt", 0)).max() < source.head_width
    for unit in (Unit("align", "spoilt", 0), Unit("fuse", None, 0)):
        assert ids_of(run, unit).max() < target


def ids_of(run: Run, unit: Unit) -> np.ndarray:
    record = run.record(unit)
    path = run.store.file(record, record.files[0])
    return np.concatenate([batch.column("ids").flatten().to_numpy() for batch in read_batches(path, ["ids"])])


def test_a_tokenizer_that_changes_between_stages_begins_anew(content: dict[str, Any]) -> None:
    before = done_run(content, ["encode", "capture"])
    file = spoilt(content) / "tokenizer.json"
    spec = json.loads(file.read_text())
    vocabulary = spec["model"]["vocab"]
    used = set(ids_of(before, Unit("encode", before.teachers["spoilt"].tokenizer_label, 0)).tolist())
    pieces = [piece for piece, token in vocabulary.items() if token in used][-2:]
    vocabulary[pieces[0]], vocabulary[pieces[1]] = vocabulary[pieces[1]], vocabulary[pieces[0]]
    file.write_text(json.dumps(spec))
    after = Run(parse_recipe(content, "test"))
    old, new = before.teachers["spoilt"], after.teachers["spoilt"]
    assert old.home.fingerprint == new.home.fingerprint and old.tokenizer_label != new.tokenizer_label
    for unit in (Unit("encode", new.tokenizer_label, 0), Unit("capture", "spoilt", 0)):
        assert [outcome.state for _, outcome in do_units(after, [unit])] == ["done"]


def test_no_source_reads_the_ids_of_another_tokenizer(content: dict[str, Any]) -> None:
    run = done_run(content, ["encode"])
    source = run.teachers["spoilt"]
    assert run.work(Unit("capture", "spoilt", 0)).inputs == (run.record(Unit("encode", source.tokenizer_label, 0)),)
    others = run.record(Unit("encode", run.target.tokenizer_label, 0))
    with pytest.raises(ShardCorrupt, match="not of the tokenizer of 'spoilt'"):
        require_own_ids(others, source)
    narrow = type("Narrow", (), {"start_id": None, "end_id": None, "context": 99, "label": "narrow"})
    narrow.vocabulary = type("V", (), {"size": 3})  # type: ignore[attr-defined]
    with pytest.raises(ShardCorrupt, match="that the tokenizer of 'narrow' has not"):
        list(read_passages(run.store.file(others, others.files[0]), narrow))  # type: ignore[arg-type]
