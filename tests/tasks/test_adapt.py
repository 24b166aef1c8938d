"""Models continued on the training text before they are used: on that text alone, and everything follows them."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from done_runs import done_run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny_models import WORDS, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from logitfuse.storage.errors import BadInput, ShardMismatch, ShardMissing
from logitfuse.storage.keys import result_key
from logitfuse.tasks import train
from logitfuse.tasks.adapt import adapt_config, adapted
from logitfuse.tasks.execute import do_units, is_up_to_date, stage_status
from logitfuse.tasks.recipe import Recipe, parse_recipe
from logitfuse.tasks.results import MEAN, results
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import STAGES
from logitfuse.tasks.training.metrics import read_metrics
from logitfuse.tasks.training.shares import of_share
from logitfuse.tasks.training.text_rows import TextRows, training_rows
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.usefixtures("in_this_process")
ADAPT = {
    "learning_rate": 1e-2, "dtype": "fp32", "sequence_length": 64, "tokens_per_step": 512, "micro_batch_tokens": 512,
    "epochs": 2,
}  # fmt: skip
FIRST, SECOND = "first", "second"


def write_texts(folder: Path, held_out: Callable[[int], str]) -> Path:
    """Write a corpus whose splits are files; its training text is always the same."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(3)
    texts = {
        "train": [" ".join(rng.choices(WORDS, k=rng.randint(5, 60))) for _ in range(40)],
        "validation": [held_out(number) for number in range(12)],
    }
    for split, lines in texts.items():
        rows = [
            json.dumps({"id": f"{split}-{number}", "text": text, "domain": "ab"[number % 2]})
            for number, text in enumerate(lines)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def usual(number: int) -> str:
    return " ".join(random.Random(100 + number).choices(WORDS, k=20))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / FIRST, 300, seed=1), tiny_model(folder / SECOND, 340, seed=2)]


def content(folder: Path, models: list[Path], **changed: Any) -> dict[str, Any]:
    corpus = write_texts(folder / "corpus", usual)
    found = {
        "name": "adapting",
        "target": {"model": str(models[0]), "dtype": "float32"},
        "sources": [{"model": str(models[1]), "dtype": "float32"}],
        "corpus": {"source": str(corpus), "id_column": "id", "documents_per_shard": 20, "near_duplicate_overlap": None},
        "check": {"nats_per_byte": None},
        "capture": {"k": 4, "tokens_per_batch": 512},
        "train": {"learning_rate": 1e-3, "dtype": "fp32", "sequence_length": 64, "max_steps": 2},
        "execution": {"folder": str(folder / "runs"), "min_free_gb": 0, "device": "cpu", "checkpoint_every_steps": 2},
    }  # fmt: skip
    return json.loads(json.dumps(found | changed))


def adapting(folder: Path, models: list[Path], *, source: Any = None, **settings: Any) -> dict[str, Any]:
    """Return a recipe whose target is adapted, and its source where `source` says how."""
    found = content(folder, models)
    found["target"]["adapt"] = {**ADAPT, **settings}
    if source is not None:
        found["sources"][0]["adapt"] = source
    return found


def run_of(recipe: dict[str, Any]) -> Run:
    return Run(parse_recipe(recipe, "test"))


def made(recipe: dict[str, Any], *stages: str) -> Run:
    return done_run(recipe, stages)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, models: list[Path]) -> Run:
    """A finished run whose models are both adapted."""
    return made(adapting(tmp_path_factory.mktemp("whole"), models, source=ADAPT), *STAGES)


def folder_of(run: Run, label: str) -> Path:
    return run.model(label).home.folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_adapting_makes_models_better_on_text_they_did_not_read(whole: Run) -> None:
    assert is_up_to_date(whole)
    found = {r.model: r for r in results(whole) if r.domain == MEAN}
    for label in (FIRST, SECOND):
        base, now = found[f"{label}-base"], found[label]
        assert base.role == "base" and now.nats_per_byte < 0.95 * base.nats_per_byte
    text = (whole.recipe.folder / "report.html").read_text()
    assert "first-base" in text and "second-base" in text
    report = json.loads((whole.recipe.folder / "report.json").read_text())
    assert {row["source"] for row in report["stages"] if row["stage"] == "adapt"} == {FIRST, SECOND}
    assert report["fingerprints"]["adapted"] == {
        label: whole.record(Unit("adapt", label)).checksum for label in (FIRST, SECOND)
    }


def test_what_comes_out_is_a_model_like_any_other(whole: Run) -> None:
    folder, given = folder_of(whole, SECOND), whole.given[SECOND].home.folder
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == whole.given[SECOND].head_width
    assert (folder / "tokenizer.json").read_bytes() == (given / "tokenizer.json").read_bytes()
    assert AutoTokenizer.from_pretrained(folder).eos_token == "</s>"
    assert "second, adapted" in (folder / "README.md").read_text()
    assert "paper" not in (folder / "README.md").read_text()
    assert not list(folder.parent.glob("checkpoints.*")), "of no use once the model is there"


def test_everything_after_it_uses_the_adapted_weights(whole: Run) -> None:
    for label in (FIRST, SECOND):
        record = whole.record(Unit("adapt", label))
        assert whole.model(label).home.fingerprint == record.checksum != whole.given[label].home.fingerprint
        assert whole.record(Unit("capture", label, 0)).fingerprints["model"] == record.checksum
        assert whole.record(Unit("evaluate", label)).fingerprints["model"] == record.checksum
        assert whole.record(Unit("evaluate", f"{label}-base")).fingerprints["model"] != record.checksum
        assert whole.record(Unit("check", label)).fingerprints["model"] == whole.given[label].home.fingerprint
    assert whole.record(Unit("train", "fused")).fingerprints["target"] == whole.model(FIRST).home.fingerprint
    told = whole.record(Unit("capture", FIRST, 0)).counts["nats"]
    loaded = whole.loaded(whole.given[FIRST])
    assert loaded is not whole.loaded(whole.model(FIRST)), "both are called 'first', but they are not the same model"
    card = (whole.recipe.folder / "train" / "fused").glob("model.*/README.md")
    assert "First continued on the training text" in next(card).read_text()
    assert told < 6.0 * whole.record(Unit("capture", FIRST, 0)).counts["positions"]


def test_without_adapt_every_key_is_what_it_was(tmp_path: Path, models: list[Path]) -> None:
    run = made(content(tmp_path, models), "encode")
    assert run.units("adapt") == [] and run.model(FIRST) is run.target
    work = run.work(Unit("capture", SECOND, 0))
    source = run.teachers[SECOND]
    prints = {"model": source.home.fingerprint, "dtype": "float32", "start": source.start_id, "end": source.end_id}
    assert work.key == result_key("capture", work.settings, [i.checksum for i in work.inputs], prints)
    assert [unit.source for unit in run.units("evaluate")] == [FIRST, SECOND, "fused"]


def test_the_base_keeps_its_place_and_key(tmp_path: Path, models: list[Path], whole: Run) -> None:
    plain = run_of({**content(tmp_path, models), "execution": {"folder": str(whole.recipe.folder.parent)}})
    plain = Run(plain.recipe.model_copy(update={"corpus": whole.recipe.corpus}))
    assert plain.work(Unit("evaluate", FIRST)).record_path == whole.work(Unit("evaluate", "first-base")).record_path
    assert plain.record(Unit("evaluate", SECOND))


def test_its_key_holds_what_makes_the_model_and_nothing_else(tmp_path: Path, models: list[Path]) -> None:
    made(content(tmp_path, models), "encode")

    def key(**settings: Any) -> str:
        return run_of(adapting(tmp_path, models, **settings)).work(Unit("adapt", FIRST)).key

    changes: list[dict[str, Any]] = [
        {}, {"learning_rate": 2e-2}, {"documents": "odd"}, {"freeze_embeddings": True}, {"lora": {}}, {"seed": 1},
    ]  # fmt: skip
    assert len({key(**change) for change in changes}) == len(changes)
    assert key(on_bad_step="skip") == key()
    named = adapting(tmp_path, models)
    named["target"]["name"] = "another"
    assert run_of(named).work(Unit("adapt", "another")).key == key()


def test_the_same_model_twice_is_adapted_once(tmp_path: Path, models: list[Path]) -> None:
    twice = adapting(tmp_path, models) | {"include_target": False}
    twice["sources"] = [
        {**twice["target"], "name": "twin"},
        {**twice["target"], "name": "odd", "adapt": ADAPT | {"seed": 7}},
    ]
    run = made(twice, "encode")
    states = [(unit.source, outcome.state) for unit, outcome in do_units(run, run.units("adapt"))]
    assert states == [(FIRST, "done"), ("twin", "kept"), ("odd", "done")]
    assert folder_of(run, FIRST) == folder_of(run, "twin") != folder_of(run, "odd")
    assert len(list((run.recipe.folder / "adapt").glob("*/model.*.json"))) == 2


def test_what_waits_for_it_says_so(tmp_path: Path, models: list[Path]) -> None:
    run = made(adapting(tmp_path, models), "encode")
    found = {s.unit.source: s for s in stage_status(run, "capture")}
    assert found[FIRST].state == "waiting" and "logitfuse stage adapt" in found[FIRST].why
    assert found[SECOND].state == "missing", "the source is used as it is"
    with pytest.raises(ShardMissing, match="stage adapt"):
        adapted(run, run.target)


# What is read


def rows_read(run: Run, label: str) -> TextRows:
    unit = Unit("adapt", label)
    given = run.given[label]
    encoded = tuple(run.record(Unit("encode", given.tokenizer_label, shard)) for shard in run.shard_numbers)
    config = adapt_config(run, run.work(unit), given, encoded, Path("model"))
    found = training_rows(config, vocabulary=given.head_width)
    assert isinstance(found, TextRows)
    return found


def documents(rows: TextRows) -> dict[str, list[int]]:
    """Return the labels of all windows by document."""
    found: dict[str, list[int]] = {}
    for example in rows.read(np.arange(len(rows.lengths))):
        assert not example.counts.any() and not len(example.ids), "no source serves a position"
        found.setdefault(example.doc_id, []).extend(example.labels.tolist())
    return found


def test_every_training_document_is_read_whole_and_no_held_out_one(tmp_path: Path, models: list[Path]) -> None:
    run = made(adapting(tmp_path, models, source=ADAPT), "encode")
    texts = {row["doc_id"]: row for shard in run.shards for row in _table(run, shard.files[0].name, "prepare")}
    for label in (FIRST, SECOND):
        found = documents(rows_read(run, label))
        tokenizer = run.given[label].tokenizer
        wanted = {doc: row["text"] for doc, row in texts.items() if row["split"] == "train"}
        assert found.keys() == wanted.keys() and len(wanted) == 40 < len(texts)
        for doc, text in wanted.items():
            assert found[doc] == [*tokenizer.encode(text, add_special_tokens=False), 1], "its eos follows"


def _table(run: Run, name: str, stage: str) -> list[dict[str, Any]]:
    (path,) = (run.recipe.folder / stage).rglob(name)
    return pq.read_table(path).to_pylist()


def test_held_out_text_changes_nothing_in_the_model(tmp_path: Path, models: list[Path]) -> None:
    """Two corpora that differ in their held-out text alone: whoever learns from it makes two models."""
    found = []
    for name, held_out in (("one", usual), ("other", lambda number: "zebra " * 20 + str(number))):
        (tmp_path / name).mkdir()
        recipe = adapting(tmp_path / name, models)
        write_texts(tmp_path / name / "corpus", held_out)
        found.append(made(recipe, "encode", "adapt"))
    one, other = found
    assert one.work(Unit("adapt", FIRST)).key != other.work(Unit("adapt", FIRST)).key, "another text, another key"
    mine, others = weights(folder_of(one, FIRST)), weights(folder_of(other, FIRST))
    assert mine.keys() == others.keys() and all(np.array_equal(mine[name], others[name]) for name in mine)


@given(st.lists(st.text(max_size=8), max_size=30))
def test_the_halves_are_disjoint_and_together_all(doc_ids: list[str]) -> None:
    odd, even = of_share(doc_ids, "odd"), of_share(doc_ids, "even")
    assert np.array_equal(odd, ~even) and of_share(doc_ids, "all").all()
    assert odd.tolist() == [bool(of_share([doc_id], "odd")) for doc_id in doc_ids], "whatever the others are"


def test_adaptation_and_fusion_learn_from_disjoint_documents(tmp_path: Path, models: list[Path]) -> None:
    recipe = adapting(tmp_path, models, documents="odd")
    recipe["train"]["documents"] = "even"
    run = made(recipe, "encode", "adapt", "capture", "map", "align", "fuse")
    adapting_on = documents(rows_read(run, FIRST)).keys()
    unit = Unit("train", "fused")
    shards = tuple(run.record(Unit("fuse", None, shard)) for shard in run.shard_numbers)
    config = train.worker_config(run, run.work(unit), shards, "", tmp_path / "out")
    rows = training_rows(config, run.target.head_width)
    training_on = {example.doc_id for example in rows.read(np.arange(len(rows.lengths)))}
    assert adapting_on and training_on and not adapting_on & training_on
    assert len(adapting_on | training_on) == 40


def test_a_specialist_learns_from_its_domains_alone(tmp_path: Path, models: list[Path]) -> None:
    run = made(adapting(tmp_path, models, domains=["b"], source=ADAPT), "encode")
    assert documents(rows_read(run, FIRST)).keys() == {f"train-{number}" for number in range(1, 40, 2)}
    assert len(documents(rows_read(run, SECOND))) == 40


def test_encoded_text_of_another_corpus_is_refused(tmp_path: Path, models: list[Path]) -> None:
    run = made(adapting(tmp_path, models), "encode")
    given = run.target
    encoded = [run.record(Unit("encode", given.tokenizer_label, shard)) for shard in run.shard_numbers]
    config = adapt_config(run, run.work(Unit("adapt", FIRST)), given, tuple(encoded), Path("model"))
    assert config.text is not None
    first, second, *_ = config.text.shards
    mixed = config.text.model_copy(update={"shards": (first.model_copy(update={"prepared": second.prepared}),)})
    with pytest.raises(ShardMismatch, match="same text"):
        TextRows(mixed, 64, vocabulary=300)


# Parts of the model


def test_frozen_embeddings_stay_and_the_rest_learns(tmp_path: Path, models: list[Path]) -> None:
    run = made(adapting(tmp_path, models, freeze_embeddings=True), "encode", "adapt")
    before, after = weights(models[0]), weights(folder_of(run, FIRST))
    assert before.keys() == after.keys(), "frozen weights are in the folder too"
    frozen = {name for name in before if "embed_tokens" in name or "lm_head" in name}
    assert frozen and all(np.array_equal(before[name], after[name]) for name in frozen)
    assert not any(np.array_equal(before[name], after[name]) for name in before.keys() - frozen)


def test_lora_is_merged_into_the_model(tmp_path: Path, models: list[Path]) -> None:
    pytest.importorskip("peft")
    run = made(adapting(tmp_path, models, lora={"rank": 2}), "encode", "adapt")
    before, after = weights(models[0]), weights(folder_of(run, FIRST))
    assert before.keys() == after.keys(), "no adapter is needed to load it"
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and not any("embed_tokens" in name or "lm_head" in name for name in changed)


# Bad settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": {"adapt": {"clm_weight": 0.5}}}, ["target.adapt.clm_weight", "no such field"]),
        ({"target": {"adapt": {"learning_rat": 1}}}, ["target.adapt.learning_rat", "'learning_rate'"]),
        ({"target": {"adapt": {"documents": "half"}}}, ["target.adapt.documents", "'odd'"]),
        ({"sources": [{"model": "b", "adapt": {"epochs": 0}}]}, ["sources.0.adapt.epochs", "greater than"]),
        ({"train": {"documents": "odd"}, "fuse": {"granularity": "block"}}, ["train.documents", "block"]),
        ({"sources": [{"adapt": {"seed": 1}, "name": n} for n in "ab"]}, ["is listed twice"]),
        ({"sources": [{"adapt": {}}]}, ["two models are called 'smollm2-135m'"]),
        ({"sources": [{"adapt": {}}], "include_target": False}, ["two models are called 'smollm2-135m'"]),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        parse_recipe(change, "r.yaml")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_specialists_are_one_model_adapted_in_several_ways() -> None:
    sources = [{"adapt": {"documents": half}, "name": half} for half in ("odd", "even")]
    recipe = Recipe.model_validate({"sources": sources})
    assert [source.label for source in recipe.sources] == ["odd", "even"]


# Killed


@pytest.mark.slow
def test_killed_and_started_again_it_makes_the_same_model(tmp_path: Path, models: list[Path]) -> None:
    recipe = adapting(tmp_path, models, tokens_per_step=256, max_steps=12)
    whole = made({**recipe, "name": "whole"}, "encode", "adapt")
    run = made(recipe, "encode")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "logitfuse.flows.cli", "stage", "adapt", str(tmp_path / "r.yaml"), "--plain"]
    metrics = run.recipe.folder / "adapt" / FIRST / f"metrics.{run.work(Unit('adapt', FIRST)).key}.jsonl"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and (not metrics.exists() or len(read_metrics(metrics)) < 4):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert stage_status(Run(run.recipe), "adapt")[0].state == "missing"
    assert list(metrics.parent.glob("checkpoints.*/checkpoint-*"))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resuming after step" in again.stdout, again.stdout
    one, other = (folder_of(Run(r.recipe), FIRST) / "model.safetensors" for r in (whole, run))
    assert one.read_bytes() == other.read_bytes()
