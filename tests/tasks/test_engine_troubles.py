"""Work that is done twice at once, made again in vain, or claimed for two things: what stood stays."""

from pathlib import Path

import pytest

from logitfuse.storage.errors import BadInput, OutOfSpace
from logitfuse.storage.store import LocalStore
from logitfuse.tasks import checks
from logitfuse.tasks.checks import claim_folder, lock_warning
from logitfuse.tasks.engine import Counts, Progress, Work, find, perform, silent
from logitfuse.tasks.recipe import Recipe, parse_recipe


def written(text: str) -> Work:
    def compute(path: Path, progress: Progress) -> Counts:
        path.write_text(text)
        return {}

    return work(compute)


def work(compute: object) -> Work:
    return Work(stage="fuse", place="fuse", name="part-00000", compute=compute, shard=0)  # type: ignore[arg-type]


def test_of_two_that_a_lock_did_not_part_the_first_stands(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def compute(path: Path, progress: Progress) -> Counts:
        lock = next((tmp_path / ".locks").iterdir())
        lock.unlink()  # as if it were of another host, where this one's locks are not seen
        assert perform(store, written("first")).state == "done"
        path.write_text("second")
        return {}

    outcome = perform(store, work(compute))
    assert outcome.state == "kept"
    assert (tmp_path / "fuse" / outcome.record.files[0].name).read_text() == "first"
    assert not list(tmp_path.rglob(".scratch-*"))


def test_what_stood_stays_where_redoing_it_fails(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    perform(store, written("first"))

    def compute(path: Path, progress: Progress) -> Counts:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutOfSpace, match="is full"):
        perform(store, work(compute), redo=True)
    assert find(store, written("first"))
    assert perform(store, written("second"), redo=True, progress=silent).state == "done"


def recipe(folder: Path, target: str) -> Recipe:
    source = {"model": "package:gemma3-270m"}
    content = {"name": "both", "target": {"model": target}, "sources": [source], "execution": {"folder": str(folder)}}
    return parse_recipe(content, "test")


def test_of_two_recipes_that_claim_a_folder_at_once_the_second_is_refused(tmp_path: Path) -> None:
    claim_folder(recipe(tmp_path, "package:smollm2-135m"))
    claim_folder(recipe(tmp_path, "package:smollm2-135m"))
    with pytest.raises(BadInput, match="it was made by other settings: target"):
        claim_folder(recipe(tmp_path, "package:demo"))


def test_a_folder_whose_locks_hold_on_one_host_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lock_warning(recipe(tmp_path, "package:smollm2-135m")) is None
    monkeypatch.setattr(checks, "locks_of_this_host_only", lambda folder: "fuse.s3fs")
    assert "fuse.s3fs, where locks hold on one host only" in str(lock_warning(recipe(tmp_path, "package:demo")))
