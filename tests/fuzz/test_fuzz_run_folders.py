"""Run folders from anybody: records, shards and links that no run has made are read or refused, never followed out."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import answer, check_answer, refused
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE_TEXTS, damaged, distorted, fuzzing
from oracle import is_permitted
from place import Place
from run_targets import signed
from targets import TARGETS

from logitfuse.storage.errors import ShardCorrupt
from logitfuse.storage.records import from_bytes
from logitfuse.storage.shards import stored_file

COMMANDS = (["status"], ["verify"], ["stage", "encode", "--plain"])


@contextmanager
def copied(home: Any) -> Iterator[Path]:
    """A copy of the run under another name, for one example."""
    folder = home.root / "runs" / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    yield Path(shutil.copytree(home.run, folder))
    shutil.rmtree(folder)


def told(home: Any, command: list[str]) -> int:
    found = answer(*command, str(home.recipe), "--set", "name=copy")
    check_answer(found)
    return found.code


@fuzzing(4)
@given(st.data())
def test_damaged_and_distorted_records(home: Any, data: st.DataObject) -> None:
    with copied(home) as folder:
        file = data.draw(st.sampled_from(sorted(folder.rglob("*.json"))))
        content = file.read_bytes()
        if data.draw(st.booleans(), "signed") and "record" in json.loads(content):
            tree = data.draw(distorted(json.loads(content)["record"]))
            try:
                file.write_bytes(signed(tree))
            except ValueError:  # NaN has no place in any record
                return
        else:
            file.write_bytes(data.draw(damaged(content)))
        told(home, data.draw(st.sampled_from(COMMANDS)))


@fuzzing(60)
@given(st.data())
def test_a_record_is_whole_or_refused(home: Any, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(home.run.glob("*/*.json"))))
    body = json.loads(file.read_bytes())["record"]
    try:
        record = from_bytes(signed(data.draw(distorted(body))), file.name)
    except (ShardCorrupt, ValueError):
        return
    names = [record.place, record.name, *(stored.name for stored in record.files)]
    assert not any(name.startswith("/") or ".." in name.split("/") or "\0" in name for name in names)


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"1" * 5000, b'{"record": [], "checksum": 1}', b"\xff", b"null"])
def test_what_is_no_record(home: Any, data: bytes) -> None:
    with pytest.raises(ShardCorrupt, match="the record is damaged"):
        from_bytes(data, "capture/x/part-00000.json")
    with copied(home) as folder:
        (folder / "run.json").write_bytes(data)
        assert told(home, ["verify"]) == 2


@pytest.mark.parametrize("name", ["../../../outside", "/etc/passwd", "a\0b", "..", "a//b", "x/../../y"])
def test_a_signed_record_cannot_name_files_outside(home: Any, name: str) -> None:
    with copied(home) as folder:
        for file in folder.glob("prepare/part-*.json"):
            body = json.loads(file.read_bytes())["record"]
            body["files"][0]["name"] = name
            file.write_bytes(signed(body))
        assert told(home, ["status"]) == 1
        assert told(home, ["verify"]) == 1


@fuzzing(3)
@given(st.data())
def test_damaged_shards(home: Any, data: st.DataObject) -> None:
    """Vouched for by a record that is signed anew: only the content can tell, and need not; it must not break."""
    with copied(home) as folder:
        file = data.draw(st.sampled_from(sorted(folder.rglob("*.parquet"))))
        before = file.read_bytes()
        file.write_bytes(data.draw(damaged(before)))
        if file.read_bytes() != before:
            assert told(home, ["verify"]) == 1
        record = file.with_suffix(".json")
        body = json.loads(record.read_bytes())["record"]
        body["files"] = [stored_file(file, file.name).model_dump()]
        record.write_bytes(signed(body))
        told(home, data.draw(st.sampled_from(COMMANDS)))


def test_a_forged_shard_is_named_where_a_stage_breaks_on_it(home: Any) -> None:
    """Ids past the vocabulary, with a record that vouches for them: the stage that reads them knows."""
    with copied(home) as folder:
        file = sorted(folder.glob("encode/*/*.parquet"))[0]
        table = pq.read_table(file)
        ids = [[10**6 for _ in row] for row in table["ids"].to_pylist()]
        column = table.schema.get_field_index("ids")
        pq.write_table(
            table.set_column(column, table.schema.field(column), pa.array(ids, table.schema.types[column])), file
        )
        body = json.loads(file.with_suffix(".json").read_bytes())["record"]
        body["files"] = [stored_file(file, file.name).model_dump()]
        file.with_suffix(".json").write_bytes(signed(body))
        found = answer("stage", "capture", "--plain", str(home.recipe), "--set", "name=copy")
        check_answer(found)
        assert found.code == 2 and "it has an id that the tokenizer of" in found.said and "stage encode" in found.said


@pytest.mark.parametrize("name", [name for name in TARGETS if not name.startswith("forged")])
def test_the_readers_that_guided_fuzzing_looks_at(home: Any, name: str) -> None:
    """Each reads a good input and an empty one as `make fuzz-guided` would judge it; atheris is not needed."""
    place, target = Place(home.root), TARGETS[name]
    for data in [*target.seeds(place)[:1], b""]:
        try:
            target.read(place, data)
        except Exception as error:
            assert is_permitted(error, target.permitted), (data, error)
    shutil.rmtree(place.scratch)
    place.scratch.mkdir()


@pytest.mark.parametrize("inner", ["encode", "prepare", ".locks"])
def test_links_out_of_a_run_folder_are_not_written_through(home: Any, inner: str) -> None:
    outside = home.root / "scratch" / "outside"
    outside.mkdir(exist_ok=True)
    with copied(home) as folder:
        for name in {inner, "encode"}:
            shutil.rmtree(folder / name)
        (folder / inner).symlink_to(outside)
        refused("run", str(home.recipe), "--plain", "--stop-after", "encode", "--set", "name=copy")
        assert not list(outside.iterdir())


def test_a_journal_or_lock_that_is_a_link_is_not_written_through(home: Any) -> None:
    precious = home.root / "scratch" / "precious"
    precious.write_text("precious")
    with copied(home) as folder:
        locks = [path.name for path in (folder / ".locks").iterdir()]
        shutil.rmtree(folder / "encode")
        shutil.rmtree(folder / ".locks")
        (folder / ".locks").mkdir()
        for name in locks:
            (folder / ".locks" / name).symlink_to(precious)
        (folder / "journal.jsonl").unlink()
        (folder / "journal.jsonl").symlink_to(precious)
        refused("run", str(home.recipe), "--plain", "--stop-after", "encode", "--set", "name=copy")
    assert precious.read_text() == "precious"


def test_a_run_folder_as_a_whole_may_be_a_link(home: Any) -> None:
    elsewhere = home.root / "scratch" / "elsewhere"
    with copied(home) as folder:
        shutil.copytree(folder, elsewhere)
    (home.root / "runs" / "copy").symlink_to(elsewhere)
    shutil.rmtree(elsewhere / "encode")
    assert told(home, ["stage", "encode", "--plain"]) == 0
    (home.root / "runs" / "copy").unlink()
    shutil.rmtree(elsewhere)


@fuzzing(8)
@given(st.sampled_from(HOSTILE_TEXTS))
def test_names_of_folders_are_plain(home: Any, name: str) -> None:
    for field in ("name", "target.name"):
        found = answer("status", str(home.recipe), "--set", f"{field}={json.dumps(name)}")
        check_answer(found)
    assert not {path.name for path in (home.root / "runs").iterdir()} - {"tiny"}
