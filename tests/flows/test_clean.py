"""`logitfuse clean`: what a recipe wants stays, what it does not goes record first, and nothing else is touched."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import answer, refused

from logitfuse.storage import under_key
from logitfuse.storage.checksums import checksum_bytes
from logitfuse.storage.keys import canonical_json
from logitfuse.storage.locks import only_one
from logitfuse.storage.store import LocalStore
from logitfuse.storage.under_key import key_in
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.clean import remove_stale, stale_of
from logitfuse.tasks.execute import do_prepare, do_units, is_up_to_date
from logitfuse.tasks.recipe import Recipe, read_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.verify.standing import StandingRun

OTHER = "encode.special_tokens=special"
RESULTS = 6  # of stage encode: two tokenizers, three shards
KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_models: list[Path]) -> dict[str, Any]:
    """What is in a recipe that was encoded twice, with its own settings and with OTHER."""
    place = tmp_path_factory.mktemp("made")
    texts = [{"id": f"doc-{number}", "text": f"the cat sat on mat {number}"} for number in range(30)]
    (place / "corpus.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    first, second = ({"model": str(folder), "dtype": "float32"} for folder in tiny_models)
    content = {
        "name": "tiny", "target": first, "sources": [second],
        "corpus": {"source": str(place / "corpus.jsonl"), "documents_per_shard": 10},
        "execution": {"folder": str(place / "runs"), "min_free_gb": 0, "device": "cpu"},
    }  # fmt: skip
    for changed in ({}, {"encode": {"special_tokens": "special"}}):
        run = Run(Recipe.model_validate(content | changed))
        claim_folder(run.recipe)
        do_prepare(run)
        list(do_units(run, run.units("encode")))
    return content


@pytest.fixture
def recipe(made: dict[str, Any], tmp_path: Path) -> Path:
    """The file of that recipe, beside a copy of its runs."""
    shutil.copytree(made["execution"]["folder"], tmp_path / "runs")
    execution = made["execution"] | {"folder": str(tmp_path / "runs")}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(made | {"execution": execution}))
    return path


@pytest.fixture
def folder(recipe: Path) -> Path:
    return recipe.parent / "runs" / "tiny"


def results(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".parquet")}


def test_what_the_recipe_does_not_want_is_listed_and_with_yes_deleted(recipe: Path, folder: Path) -> None:
    before = results(folder)
    listed = json.loads(answer("clean", str(recipe), "--json").out)
    assert results(folder) == before, "a dry run has changed something"
    gone = {
        path for path in before for one in listed["results"] if f"{one['folder']}/part-" in path and one["key"] in path
    }
    assert len(listed["results"]) == RESULTS and len(gone) == 2 * RESULTS and not listed["deleted"]
    assert listed["bytes"] == sum(len(before[path]) for path in gone)
    assert {one["why"] for one in listed["results"]} == {"other settings: special_tokens=special, now text"}
    said = answer("clean", str(recipe))
    assert said.code == 0 and "results of other settings" in said.said and f"clean {recipe} --yes" in said.said

    done = answer("clean", str(recipe), "--yes")
    assert done.code == 0 and f"{RESULTS} results deleted" in done.said, done
    assert results(folder) == {path: data for path, data in before.items() if path not in gone}
    assert is_up_to_date(Run(read_recipe(str(recipe))), ["prepare", "encode"])
    noted = json.loads((folder / "journal.jsonl").read_text().splitlines()[-1])
    assert (noted["stages"], noted["removed"], noted["bytes"], noted["ended"]) == (
        ["clean"],
        6,
        listed["bytes"],
        "done",
    )
    assert "nothing to delete" in answer("clean", str(recipe), "--yes").said


def test_what_nothing_has_taken_the_place_of_goes_only_by_name(recipe: Path, folder: Path) -> None:
    """A slip in a setting must not cost all that there is."""
    assert answer("clean", str(recipe), "--set", OTHER, "--yes").code == 0
    before = results(folder)
    kept = answer("clean", str(recipe), "--yes")
    assert "encode is kept" in kept.said and "nothing to delete" in kept.said and results(folder) == before
    assert f"{RESULTS} results deleted" in answer("clean", str(recipe), "--stage", "encode", "--yes").said
    assert len(before) - len(results(folder)) == 2 * RESULTS


def test_ended_anywhere_no_record_stands_without_its_files(
    recipe: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = stale_of(StandingRun(read_recipe(str(recipe))), "encode").stale or ()
    remove = under_key.remove_whole
    for last in range(2 * RESULTS):
        copy = LocalStore(Path(shutil.copytree(folder, tmp_path / f"ended-{last}")))
        removed: list[Path] = []

        def dying(path: Path, removed: list[Path] = removed, last: int = last) -> None:
            if len(removed) == last:
                raise KeyboardInterrupt
            removed.append(path)
            remove(path)

        monkeypatch.setattr(under_key, "remove_whole", dying)
        with pytest.raises(KeyboardInterrupt):
            remove_stale(copy, stale)
        records = list(copy.root.glob("encode/*/part-*.json"))
        assert len(removed) == last and all(path.with_suffix(".parquet").exists() for path in records)
        monkeypatch.setattr(under_key, "remove_whole", remove)
        remove_stale(copy, stale)
        assert len(list(copy.root.glob("encode/*/part-*"))) == 2 * RESULTS and not list(copy.root.rglob(".scratch*"))


def test_nothing_is_deleted_beside_a_process_at_work_or_a_study(recipe: Path, folder: Path) -> None:
    before = results(folder)
    with only_one(folder / ".locks" / "train.fused.model.lock"):
        assert "train.fused.model: process" in refused("clean", str(recipe), "--yes")
    (folder / "study").mkdir()
    assert "a study is kept there" in refused("clean", str(recipe), "--yes")
    assert answer("clean", str(recipe)).code == 0 and results(folder) == before


def test_links_are_not_followed(recipe: Path, folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / f"part-00000.{KEY}.parquet").write_text("mine")
    (folder / "encode" / "out").symlink_to(mine)
    (folder / "encode" / "alias").symlink_to(next((folder / "encode").glob("tok-*")))
    (folder / "prepare" / f"part-00000.{KEY}").symlink_to(mine)
    assert answer("clean", str(recipe), "--yes").code == 0
    assert (mine / f"part-00000.{KEY}.parquet").read_text() == "mine"
    assert not (folder / "prepare" / f"part-00000.{KEY}").is_symlink()
    assert len(list(folder.glob("encode/tok-*/part-*"))) == 2 * RESULTS


def test_folders_without_a_record_are_unfinished_and_go_whole(recipe: Path, folder: Path) -> None:
    left = folder / "encode" / "tok-gone" / f"checkpoints.{KEY}"
    left.mkdir(parents=True)
    (left / "weights").write_text("12345")
    listed = json.loads(answer("clean", str(recipe), "--json", "--yes").out)["results"]
    (one,) = (one for one in listed if one["key"] == KEY)
    assert (one["bytes"], one["finished"]) == (5, False) and not list(left.parent.iterdir())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (f"part-00000.{KEY}.parquet", KEY), (f"model.{KEY}", KEY), (f"model.{KEY}.0123456789ab", KEY),
        (f"{KEY}.json", None), (f".scratch-1-2-3-model.{KEY}", None), (f"a.{KEY}.{KEY}.json", None),
        ("notes.txt", None),
    ],
)  # fmt: skip
def test_only_a_name_with_one_key_is_a_results(name: str, key: str | None) -> None:
    assert key_in(name) == key


def test_a_newer_versions_result_is_kept(recipe: Path, folder: Path) -> None:
    (stale, *_) = (path for path in folder.glob("encode/*/part-*.json") if b"special_tokens" in path.read_bytes())
    newer = json.loads(stale.read_bytes())["record"] | {"format": 2}
    stale.write_bytes(canonical_json({"record": newer, "checksum": checksum_bytes(canonical_json(newer))}) + b"\n")
    said = answer("clean", str(recipe), "--yes").said
    assert "encode: 1 of a newer logitfuse are kept" in said and f"{RESULTS - 1} results deleted" in said
    assert stale.exists() and stale.with_suffix(".parquet").exists()
