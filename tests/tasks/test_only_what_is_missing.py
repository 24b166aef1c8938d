"""The store's main promise: a rerun does what is missing and nothing else; tests/chaos has it killed."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import paper_models
import pytest

from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import ShardCorrupt
from logitfuse.tasks.execute import do_prepare, do_units, is_up_to_date, stage_status
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.models
DATA_STAGES = ["encode", "capture", "map", "align", "fuse"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def content(tmp_path: Path, models: Path) -> dict[str, Any]:
    return paper_models.recipe_content(tmp_path, models, documents=18)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models: Path) -> dict[str, Any]:
    """A recipe whose data stages are done."""
    found = paper_models.recipe_content(tmp_path_factory.mktemp("made"), models, documents=18)
    first = do_data_stages(found)
    assert first == {
        "prepare": 3, "encode/tiny-llama": 3, "encode/tiny-mpt": 3, "capture/tiny-llama": 3, "capture/tiny-mpt": 3,
        "map/tiny-llama": 1, "map/tiny-mpt": 1, "align/tiny-llama": 3, "align/tiny-mpt": 3, "fuse": 3,
    }  # fmt: skip
    return found


@pytest.fixture
def done(content: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """The same work, done in a folder of its own."""
    shutil.copytree(made["execution"]["folder"], content["execution"]["folder"])
    return content


def do_data_stages(content: dict[str, Any]) -> Counter[str]:
    """Run prepare to fuse in a new process's view; count what was done by stage/source."""
    run = Run(parse_recipe(content, "test"))
    done = Counter("prepare" for outcome in do_prepare(run) if outcome.state == "done")
    for stage in DATA_STAGES:
        for unit, outcome in do_units(run, run.units(stage)):
            if outcome.state == "done":
                done["/".join(filter(None, (stage, label_of(run, unit))))] += 1
    assert is_up_to_date(run, ["prepare", *DATA_STAGES])
    return done


def label_of(run: Run, unit: Unit) -> str | None:
    if unit.source in run.tokenizers:
        return run.tokenizers[unit.source].label
    return unit.source


def test_a_rerun_does_nothing(made: dict[str, Any]) -> None:
    assert not do_data_stages(made)


def test_another_fusion_rule_redoes_only_the_fusion(done: dict[str, Any]) -> None:
    other = done | {"fuse": {"rule": "avg_ce"}}
    assert do_data_stages(other) == {"fuse": 3}
    assert not do_data_stages(done)  # and going back costs nothing


def test_an_added_source_captures_only_itself(content: dict[str, Any]) -> None:
    both = content["sources"]
    assert "capture/tiny-mpt" not in do_data_stages(content | {"sources": []})
    added = do_data_stages(content | {"sources": both})
    assert added == {"encode/tiny-mpt": 3, "capture/tiny-mpt": 3, "map/tiny-mpt": 1, "align/tiny-mpt": 3, "fuse": 3}


def test_appended_documents_form_shards_of_their_own(done: dict[str, Any], tmp_path: Path) -> None:
    paper_models.write_corpus(tmp_path / "corpus.jsonl", documents=23)  # the third shard stood at 2 of 8 documents
    grown = do_data_stages(done)
    assert set(grown.values()) == {1}, grown
    assert grown["prepare"] == grown["fuse"] == 1 and "map/tiny-mpt" not in grown
    run = Run(parse_recipe(done, "test"))
    assert [record.counts["documents_read"] for record in run.shards] == [8, 8, 2, 5]


def test_another_k_captures_again_but_encodes_nothing(done: dict[str, Any]) -> None:
    other = done | {"capture": done["capture"] | {"k": 5}}
    assert {name.split("/")[0] for name in do_data_stages(other)} == {"capture", "align", "fuse"}


def test_a_damaged_shard_is_named_and_redone_to_the_same_bytes(done: dict[str, Any]) -> None:
    before = checksums(done)
    run = Run(parse_recipe(done, "test"))
    unit = Unit("capture", "tiny-mpt", 1)
    file = run.store.local(f"capture/tiny-mpt/{run.record(unit).files[0].name}")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ShardCorrupt, match="--source tiny-mpt --shards 1 --redo"):
        list(do_units(run, [Unit("align", "tiny-mpt", 1)], redo=True))
    list(do_units(run, [unit], redo=True))
    list(do_units(run, [Unit("align", "tiny-mpt", 1)], redo=True))
    assert checksums(done) == before
    file.write_bytes(file.read_bytes()[:-1])  # a wrong size is seen without reading the file
    fresh = Run(parse_recipe(done, "test"))
    assert [s.state for s in stage_status(fresh, "capture")].count("missing") == 1


def checksums(content: dict[str, Any]) -> dict[str, str]:
    """Checksums of all published shards, their names without the run's own."""
    folder = parse_recipe(content, "test").folder
    return {str(p.relative_to(folder)): checksum_file(p) for p in sorted(folder.rglob("*.parquet"))}
