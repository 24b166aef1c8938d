"""The map stage and the text a map is fitted on: which shards it reads, which rows, and what changes its key."""

from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pytest

from logitfuse.kernels.vocabulary_map import MapContext
from logitfuse.storage.errors import ShardMissing
from logitfuse.storage.keys import result_key
from logitfuse.storage.shards import Rows, read_batches, verified_path
from logitfuse.tasks import vocabulary_map
from logitfuse.tasks.execute import do_prepare, do_unit, do_units
from logitfuse.tasks.fitting_text import shards_to_fit, training_chunks
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.vocabulary_map import MapSettings, build_map, read_map

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def content(tmp_path: Path, models: Path) -> dict[str, Any]:
    return paper_models.recipe_content(tmp_path, models, documents=30)


def encoded(content: dict[str, Any], **settings: Any) -> Run:
    """A run whose text is encoded, with these settings of the map."""
    run = Run(parse_recipe(content | {"map": settings}, "test"))
    do_prepare(run)
    list(do_units(run, run.units("encode")))
    return run


def mpt_unit(run: Run) -> Unit:
    return next(u for u in run.units("map") if u.source != run.target.tokenizer_label)


def tokens_of_first_shard(run: Run) -> int:
    return run.record(Unit("encode", run.target.tokenizer_label, 0)).counts["tokens"]


def test_a_learned_map_names_the_text_it_was_fitted_on(content: dict[str, Any]) -> None:
    run = encoded(content, strategy="learned")
    unit = mpt_unit(run)
    records = [
        record
        for shard in run.shard_numbers
        for record in (
            run.prepared(shard),
            run.record(Unit("encode", unit.source, shard)),
            run.record(Unit("encode", run.target.tokenizer_label, shard)),
        )
    ]
    assert len(run.shards) == 4 and run.work(unit).inputs == tuple(records)
    outcome = do_unit(run, unit)
    assert outcome.record.inputs == [record.checksum for record in records]
    found = read_map(verified_path(run.store, outcome.record))
    rows = np.repeat(np.arange(found.source_size), np.diff(found.offsets))
    sums = np.bincount(rows, found.weights, found.source_size)
    np.testing.assert_allclose(sums[np.diff(found.offsets) > 0], 1.0, atol=1e-6)
    assert (found.times > 0).sum() == outcome.record.counts["learned"]
    assert outcome.record.counts["learned"] > 50 and max(np.diff(found.offsets)) > 1


@pytest.mark.parametrize("strategy", ["exact", "mined", "first_piece", "published"])
def test_other_maps_do_not_depend_on_text(content: dict[str, Any], strategy: str) -> None:
    run = Run(parse_recipe(content | {"map": {"strategy": strategy}}, "test"))  # nothing is prepared yet
    unit = mpt_unit(run)
    work = run.work(unit)
    source = run.tokenizers[unit.needed_source]
    prints = {"source": source.vocabulary.fingerprint, "target": run.target.vocabulary.fingerprint}
    assert work.inputs == ()
    assert work.key == result_key("map", MapSettings(strategy=strategy), [], prints | {"widths": [50432, 32000]})


def test_the_targets_own_map_needs_no_text(content: dict[str, Any]) -> None:
    run = Run(parse_recipe(content | {"map": {"strategy": "learned"}}, "test"))
    assert run.work(Unit("map", run.target.tokenizer_label)).inputs == ()
    with pytest.raises(ShardMissing):
        run.work(mpt_unit(run))


@pytest.mark.slow
def test_appended_documents_do_not_invalidate_a_map_that_had_enough(content: dict[str, Any], tmp_path: Path) -> None:
    def grown(**settings: Any) -> tuple[list[str], list[str]]:
        """The inputs before and after more documents came."""
        found = []
        for documents in (30, 40):
            paper_models.write_corpus(tmp_path / "corpus.jsonl", documents)
            run = encoded(content, strategy="learned", **settings)
            found.append([record.checksum for record in run.work(mpt_unit(run)).inputs])
        return found[0], found[1]

    enough = tokens_of_first_shard(encoded(content)) // 2
    before, after = grown(options={"max_tokens": enough})
    assert before == after and len(before) == 3
    before, after = grown()  # all there is was not enough: more text is more to learn from
    assert after[: len(before)] == before and len(after) > len(before)


def test_the_first_shards_that_hold_enough_training_tokens(content: dict[str, Any]) -> None:
    run = encoded(content, strategy="learned")
    label, source = run.target.tokenizer_label, mpt_unit(run).needed_source
    tokens = 0.0
    for shard in run.shard_numbers:
        counts = run.prepared(shard).counts
        tokens += run.record(Unit("encode", label, shard)).counts["tokens"] * (
            counts["splits"]["train"] / counts["documents"]
        )
        assert len(shards_to_fit(run, source, int(tokens))) == shard + 1
    assert len(shards_to_fit(run, source, int(tokens) + 10**6)) == len(run.shards)
    assert shards_to_fit(run, source, None) == []


def test_held_out_text_is_never_read(content: dict[str, Any]) -> None:
    run = encoded(content)
    source = mpt_unit(run).needed_source
    shards = shards_to_fit(run, source, 10**9)
    files = [{name: verified_path(run.store, record) for name, record in shard.items()} for shard in shards]
    expected, held_out = [], 0
    for paths in files:
        splits = [s for batch in read_batches(paths["prepare"], ["split"]) for s in batch.column("split").to_pylist()]
        rows = [
            rows.values("ids", row)
            for rows in map(Rows, read_batches(paths["target"], None))
            for row in range(len(rows))
        ]
        expected += [ids.tolist() for ids, split in zip(rows, splits, strict=True) if split == "train"]
        held_out += sum(split != "train" for split in splits)
    assert [chunk.target_ids.tolist() for chunk in training_chunks(files)] == expected
    assert held_out > 0 and len(expected) > held_out


@pytest.mark.slow
def test_the_runs_workers_compute_the_same_map(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(*arguments: Any, **named: Any) -> MapContext:
        context = map_context(*arguments, **named)
        seen.append(context.workers)
        return context

    map_context = vocabulary_map.map_context
    monkeypatch.setattr(vocabulary_map, "map_context", watched)
    results = []
    for workers in (1, 3):
        execution = content["execution"] | {"workers": workers}
        run = Run(parse_recipe(content | {"execution": execution, "map": {"strategy": "published"}}, "test"))
        results.append(do_unit(run, mpt_unit(run), redo=True).record)
    assert seen == [1, 3]
    assert (results[0].key, results[0].checksum) == (results[1].key, results[1].checksum)


def test_models_of_one_tokenizer_need_no_strategy(content: dict[str, Any]) -> None:
    run = Run(parse_recipe(content, "test"))
    found = build_map(run.target, run.target, 32_001, MapSettings(strategy="learned"))
    assert found.target_ids.tolist() == list(range(32_000)) and found.source_size == 32_001
