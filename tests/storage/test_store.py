"""The store's promises: whole or absent, found by key, never believed when damaged."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from logitfuse.storage.atomic import (
    SCRATCH,
    SCRATCH_PREFIX,
    replacing,
    replacing_folder,
    sweep_scratch,
    write_exclusively,
)
from logitfuse.storage.checksums import checksum_bytes, text_hash
from logitfuse.storage.errors import MadeByNewer, ShardCorrupt, ShardMismatch
from logitfuse.storage.locks import only_one
from logitfuse.storage.records import Record, from_bytes, to_bytes
from logitfuse.storage.schemas import ENCODE, SCHEMAS
from logitfuse.storage.shards import read_batches, rows_together, stored_file, verified_path, writing_rows
from logitfuse.storage.store import LocalStore


def write_shard(path: Path, texts: list[str]) -> None:
    with writing_rows(path, ENCODE, rows=2) as add:
        for number, text in enumerate(texts):
            size = len(text)
            add(
                {
                    "doc_id": f"d{number}",
                    "chunk": 0,
                    "text_hash": text_hash(text),
                    "last": True,
                    "ids": list(range(size)),
                    "ends": list(range(1, size + 1)),
                }
            )


def shard_record(folder: Path, texts: list[str]) -> tuple[LocalStore, Record]:
    store = LocalStore(folder)
    with store.writing("encode/x/part-00000.abc.parquet") as scratch:
        write_shard(scratch, texts)
        file = stored_file(scratch, "part-00000.abc.parquet")
    return store, Record(stage="encode", place="encode/x", name="part-00000", shard=0, key="abc", files=[file])


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "kept") as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"kept": "old"}
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "folder") as scratch:
        (scratch / "a").write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with replacing_folder(tmp_path / "model") as scratch:
            (scratch / content).write_text(content)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_dead_writers_left_is_swept_away_and_living_ones_keep_theirs(tmp_path: Path) -> None:
    dead = subprocess.Popen(["sleep", "0"])
    dead.wait()
    with replacing(tmp_path / "living") as living:
        living.write_text("half")
        ours = SCRATCH.match(living.name)
        assert ours
        left = tmp_path / living.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
        left.mkdir()
        (left / "weights").write_text("half")
        elsewhere = tmp_path / living.name.replace(ours[1], "0123abcd")
        elsewhere.write_text("half")
        old = tmp_path / f"{SCRATCH_PREFIX}of an older version"
        old.write_text("half")
        os.utime(old, (0, 0))
        (tmp_path / "published").write_text("whole")
        sweep_scratch(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {living.name, elsewhere.name, "published"}


def test_a_folder_that_a_killed_run_was_about_to_claim_is_empty(tmp_path: Path) -> None:
    (tmp_path / f"{SCRATCH_PREFIX}0123abcd-1-0123abcd-run.json").touch()
    assert LocalStore(tmp_path).is_empty()
    (tmp_path / "else").touch()
    assert not LocalStore(tmp_path).is_empty()


def test_records_are_created_only_once(tmp_path: Path) -> None:
    assert write_exclusively(tmp_path / "r.json", b"first")
    assert not write_exclusively(tmp_path / "r.json", b"second")
    assert (tmp_path / "r.json").read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\0b"])
def test_names_cannot_leave_the_run_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leave the run folder"):
        LocalStore(tmp_path).read(name)


def test_every_flipped_byte_of_a_record_is_found() -> None:
    data = to_bytes(Record(stage="fuse", place="fuse", name="part-00000", key="k", files=[], counts={"chunks": 3}))
    assert from_bytes(data, "r").counts == {"chunks": 3}
    for place in range(len(data) - 1):  # the last byte is a line end, which carries nothing
        flipped = bytearray(data)
        flipped[place] ^= 1
        with pytest.raises(ShardCorrupt):
            from_bytes(bytes(flipped), "r")


def test_a_record_of_a_newer_version_is_refused_by_name() -> None:
    body = Record(stage="fuse", place="fuse", name="p", key="k", files=[]).model_dump(mode="json") | {"format": 99}
    data = json.dumps({"record": body, "checksum": checksum_bytes(_canonical(body))}).encode()
    with pytest.raises(MadeByNewer, match="newer logitfuse"):
        from_bytes(data, "r")


def _canonical(body: dict) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("damage", ["flip", "cut", "zero", "missing"])
def test_a_damaged_shard_is_never_read(tmp_path: Path, damage: str) -> None:
    store, record = shard_record(tmp_path, ["abc", "de", "f"])
    path = verified_path(store, record)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage == "cut":
        data = data[:-1]
    if damage == "zero":
        data[10:20] = bytes(10)
    path.write_bytes(data)
    if damage == "missing":
        path.unlink()
    with pytest.raises(ShardCorrupt, match=r"stage encode RECIPE --source x --shards 0 --redo"):
        verified_path(store, record)


def test_shards_of_different_text_are_never_joined(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", ["abc", "de", "f"])
    write_shard(tmp_path / "b", ["abc", "dX", "f"])
    write_shard(tmp_path / "c", ["abc", "de"])
    columns = ["ids"]
    same = list(rows_together({"l": (tmp_path / "a", columns), "r": (tmp_path / "a", columns)}, rows=2))
    assert [views["l"].values("ids", row).tolist() for views, row in same] == [[0, 1, 2], [0, 1], [0]]
    for other in "bc":
        with pytest.raises(ShardMismatch):
            list(rows_together({"l": (tmp_path / "a", columns), "r": (tmp_path / other, columns)}, rows=2))


def test_shards_are_the_same_bytes_every_time_and_plain_parquet(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", ["abc", "de"])
    write_shard(tmp_path / "b", ["abc", "de"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pq.read_table(tmp_path / "a").column("ids").to_pylist() == [[0, 1, 2], [0, 1]]


def test_every_schema_ties_its_rows_to_the_text() -> None:
    for name, schema in SCHEMAS.items():
        if name != "map":
            assert schema.arrow.names[:3] == ["doc_id", "chunk", "text_hash"]


HOLD = """
import sys, time
from pathlib import Path
from logitfuse.storage.locks import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_waited_for_and_dies_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "unit.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, cwd=tmp_path)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    said: list[str] = []

    def kill_when_waiting(message: str) -> None:
        said.append(message)
        holder.kill()

    started = time.monotonic()
    with only_one(lock, kill_when_waiting):
        assert said and str(holder.pid) in said[0]
    assert time.monotonic() - started < 30
    holder.wait()
    assert os.path.exists(lock)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)])
def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    store, record = shard_record(tmp_path, ["a"])
    shard, beside = tmp_path / "encode/x/part-00000.abc.parquet", tmp_path / "encode/x/part-00000.abc.json"
    shard.unlink()
    make(shard)
    make(beside)
    with pytest.raises(ShardCorrupt, match=r"part-00000\.abc\.parquet: this is no file.*Redo it"):
        verified_path(store, record)
    with pytest.raises(ShardCorrupt, match=r"part-00000\.abc\.json: this is no file"):
        store.read(record.path)
    assert store.size(record, record.files[0]) is None and store.names("encode/x", ".json") == []


def test_the_command_that_removes_a_file_is_one_that_a_shell_can_take(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "it's $(mine)")
    (store.root / "encode" / "folder.json").mkdir(parents=True)
    for name, command in (("encode/x.json", ["rm"]), ("encode/folder.json", ["rm", "-r"])):
        assert shlex.split(store.removal(name)) == [*command, str(store.root / name)]


def test_a_shard_is_not_called_damaged_where_the_machine_has_no_threads_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = shard_record(tmp_path, ["a"])

    def refuses(*_: object, **__: object) -> None:
        raise OSError("Unknown error: Failed to launch worker thread: Resource temporarily unavailable")

    monkeypatch.setattr(pq, "ParquetFile", refuses)
    with pytest.raises(OSError, match="worker thread"):
        list(read_batches(store.file(record, record.files[0]), None))
