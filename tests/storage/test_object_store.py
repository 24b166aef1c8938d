"""What the store promises holds in an object store too: whole or absent, one record, nothing finished is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
from s3_server import KEY, SECRET, Server

from logitfuse.storage import remote
from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import BadInput, ShardCorrupt, StoreFailed
from logitfuse.storage.newest import NewestFolder
from logitfuse.storage.object_store import ObjectStore
from logitfuse.storage.places import open_store, run_folder
from logitfuse.storage.records import Record, to_bytes
from logitfuse.storage.remote import RemoteFolder
from logitfuse.storage.shards import verified_path
from logitfuse.storage.urls import check_url, is_url
from logitfuse.tasks.engine import Outcome, Work, find, perform
from logitfuse.tasks.recipe import read_recipe

URL = "s3://bucket/runs/tiny"


def store(machine: Path) -> ObjectStore:
    """The run folder as one machine sees it: each has copies of its own."""
    return ObjectStore(URL, machine)


def work(text: str = "made", *, folder: bool = False, then: Callable[[], object] = lambda: None) -> Work:
    def compute(path: Path, progress: object) -> dict[str, int]:
        for name in ("a.txt", "b.txt") if folder else ("",):
            (path / name if folder else path).write_text(f"{text}{name}")
        then()
        return {"size": len(text)}

    return Work("encode", "encode/x", "part-00000", compute, shard=0, folder=folder)


def done_once(text: str) -> Work:
    """Work that must not be done, because its result is there."""

    def refuse() -> None:
        raise AssertionError("it was done again")

    return work(text, then=refuse)


def content(outcome: Outcome, machine: ObjectStore) -> str:
    return verified_path(machine, outcome.record).read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_what_one_machine_makes_the_others_have(s3: Server, tmp_path: Path, folder: bool) -> None:
    made = perform(store(tmp_path / "a"), work(folder=folder))
    puts = [path for method, path in s3.seen if method == "PUT" and ".probe" not in path]
    assert puts[-1] == f"/bucket/runs/tiny/{made.record.path}", "the record comes last"
    assert len(puts) == len(s3.objects()) == (3 if folder else 2)
    other = store(tmp_path / "b")
    found = perform(other, work(folder=folder))
    assert made.state == "done" and found.state == "kept" and found.record == made.record
    assert content(found, other) == ("madea.txt" if folder else "made")
    if folder:
        assert sorted(path.name for path in other.folder(found.record).iterdir()) == ["a.txt", "b.txt"]
    assert not [name for name in s3.objects() if ".probe" in name]


@pytest.mark.parametrize("conditional", [True, False])
def test_listings_decide_nothing(s3: Server, tmp_path: Path, conditional: bool) -> None:
    s3.blind, s3.conditional = True, conditional
    made = perform(store(tmp_path / "a"), work())
    machine = store(tmp_path / "b")
    assert machine.remote.exclusive == conditional
    assert content(perform(machine, done_once("made")), machine) == "made" and made.state == "done"


def test_of_machines_that_make_different_bytes_one_is_believed(s3: Server, tmp_path: Path) -> None:
    """As captures on two kinds of GPU: the same key, other bytes. What the losers sent is removed."""
    machines = [store(tmp_path / str(number)) for number in range(6)]
    together = Barrier(len(machines))

    def run(number: int) -> Outcome:
        return perform(machines[number], work(f"made by {number}", then=together.wait))

    with ThreadPoolExecutor(len(machines)) as pool:
        outcomes = list(pool.map(run, range(len(machines))))
    assert sorted(outcome.state for outcome in outcomes) == ["done"] + ["kept"] * 5
    assert len({outcome.record.checksum for outcome in outcomes}) == 1
    read = {content(outcome, machine) for outcome, machine in zip(outcomes, machines, strict=True)}
    assert len(read) == 1 and len(s3.objects()) == 2


def test_of_machines_that_make_the_same_bytes_nobody_removes_them(s3: Server, tmp_path: Path) -> None:
    first, second = store(tmp_path / "a"), store(tmp_path / "b")
    late: list[Outcome] = []
    made = perform(first, work(then=lambda: late.append(perform(second, work()))))
    assert made.state == "kept" and late[0].state == "done" and made.record == late[0].record
    assert content(made, first) == "made" and len(s3.objects()) == 2


def test_without_exclusive_creation_the_later_record_stands_and_is_whole(s3: Server, tmp_path: Path) -> None:
    s3.conditional = False
    first, second = store(tmp_path / "a"), store(tmp_path / "b")
    made = perform(first, work("one", then=lambda: perform(second, work("two"))))
    assert made.state == "kept" and content(made, first) == "two", "it was looked for before it was written"
    assert len(s3.objects()) == 2


def test_a_bucket_that_goes_away_mid_write_costs_nothing_that_was_finished(s3: Server, tmp_path: Path) -> None:
    machine = store(tmp_path / "a")
    kept = perform(machine, Work("encode", "encode/y", "part-00000", work().compute, shard=0))
    with pytest.raises(StoreFailed, match=r"s3://bucket/runs/tiny: writing .*there is no such bucket.*run the same"):
        perform(machine, work(then=s3.remove_bucket))
    s3.make_bucket()
    again = store(tmp_path / "a")
    assert content(perform(again, done_once("made")), again) == "made", "sent, not made again"
    assert again.unsent(kept.record.path) == kept.record, "and so is what the bucket had"
    assert perform(store(tmp_path / "b"), done_once("made")).state == "kept"


def test_a_bucket_that_goes_away_while_a_result_is_redone_costs_no_work(s3: Server, tmp_path: Path) -> None:
    machine = store(tmp_path / "a")
    perform(machine, work("old"))
    with pytest.raises(StoreFailed, match="there is no such bucket"):
        perform(machine, work("new", then=s3.remove_bucket), redo=True)
    s3.make_bucket()
    again = store(tmp_path / "a")
    assert content(perform(again, done_once("new")), again) == "new"


@pytest.mark.parametrize("at", ["part-00000.", ".json"])
def test_a_store_that_fails_mid_write_has_no_record(s3: Server, tmp_path: Path, at: str) -> None:
    s3.broken = lambda method, path: 500 * (method == "PUT" and at in path)
    with pytest.raises(StoreFailed, match="the same command can be run again"):
        perform(store(tmp_path / "a"), work(folder=True))
    assert not [name for name in s3.objects() if name.endswith(".json")]
    s3.as_usual()
    assert find(store(tmp_path / "b"), work(folder=True)) is None
    assert perform(store(tmp_path / "a"), work(folder=True)).state == "done"


def test_an_upload_that_the_store_forgets_is_no_result(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SECONDS_TO_SHOW", (0.0, 0.1))
    s3.broken = lambda method, path: 404 * (method == "HEAD" and ".parquet" in path)
    with pytest.raises(StoreFailed, match="was sent with 4 bytes, and the store has nothing"):
        perform(store(tmp_path / "a"), work())
    assert not [name for name in s3.objects() if name.endswith(".json")]


def test_an_upload_that_shows_late_is_waited_for(s3: Server, tmp_path: Path) -> None:
    looks: list[str] = []

    def late(method: str, path: str) -> int:
        if method == "HEAD" and ".parquet" in path:
            looks.append(path)
        return 404 * (bool(looks) and len(looks) < 3 and method == "HEAD")

    s3.broken = late
    assert perform(store(tmp_path / "a"), work()).state == "done" and len(looks) >= 3


MAKE = """
import sys
from pathlib import Path
from logitfuse.storage.newest import NewestFolder
from logitfuse.storage.object_store import ObjectStore
from logitfuse.tasks.engine import Work, perform
def compute(path, progress):
    path.write_text("made")
    return {}
perform(ObjectStore(sys.argv[1], Path(sys.argv[2])), Work("encode", "encode/x", "part-00000", compute, shard=0))
"""


@pytest.mark.parametrize(("at", "again"), [(".parquet", "made"), (".json", "made")])
def test_a_machine_killed_while_it_sends_goes_on(s3: Server, tmp_path: Path, at: str, again: str) -> None:
    killed: list[int] = []

    def kill(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(at) and not killed:
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)

    s3.before = kill
    child = subprocess.Popen([sys.executable, "-c", MAKE, URL, str(tmp_path / "a")], cwd=tmp_path)
    assert child.wait(timeout=300) == -signal.SIGKILL and killed
    machine = store(tmp_path / "a")
    assert content(perform(machine, done_once("made")), machine) == again
    assert len(s3.objects()) == 2


@pytest.mark.parametrize(
    ("state", "said"),
    [("refused", "the store refuses these credentials"), ("no bucket", "there is no such bucket"),
     ("down", "cannot be reached"), ("no credentials", "there are no credentials")],
)  # fmt: skip
def test_what_is_wrong_is_said_before_any_work(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, said: str
) -> None:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # which reads the environment once
    if state == "refused":
        s3.refuses = True
    if state == "no bucket":
        s3.remove_bucket()
    if state == "down":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    if state == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreFailed) as raised:
        perform(store(tmp_path / "a"), done_once("made"))
    message = str(raised.value)
    assert message.startswith(URL) and said in message and "run the same command again" in message
    assert KEY not in message and SECRET not in message and "\n" not in message
    S3FileSystem.clear_instance_cache()


def test_damaged_copies_are_fetched_again_and_damaged_objects_refused(s3: Server, tmp_path: Path) -> None:
    made = perform(store(tmp_path / "a"), work())
    copy = verified_path(store(tmp_path / "a"), made.record)
    copy.write_text("fade")
    assert verified_path(store(tmp_path / "a"), made.record).read_text() == "made"
    (name,) = (name for name in s3.objects() if name.endswith(".parquet"))
    s3.client.put_object(Bucket="bucket", Key=name, Body=b"fade")
    elsewhere = store(tmp_path / "b")
    assert elsewhere.checksum(made.record, made.record.files[0]) != made.record.files[0].checksum
    with pytest.raises(ShardCorrupt, match=r"Redo it: logitfuse stage encode RECIPE --source x --shards 0 --redo"):
        verified_path(store(tmp_path / "b"), made.record)
    s3.client.delete_object(Bucket="bucket", Key=name)
    with pytest.raises(ShardCorrupt, match="missing"):
        verified_path(store(tmp_path / "c"), made.record)
    assert find(store(tmp_path / "c"), work()) is None


def test_redone_work_replaces_record_and_objects(s3: Server, tmp_path: Path) -> None:
    perform(store(tmp_path / "a"), work("before"))
    machine = store(tmp_path / "b")
    made = perform(machine, work("after"), redo=True)
    assert made.state == "done" and content(made, machine) == "after" and len(s3.objects()) == 2
    first = store(tmp_path / "a")
    assert content(perform(first, done_once("")), first) == "after", "its own copy is an older one"
    machine.discard(made.record)
    assert not s3.objects()


def test_small_objects_are_created_once(s3: Server, tmp_path: Path) -> None:
    machine = store(tmp_path / "a")
    assert machine.create("run.json", b"first") and not machine.create("run.json", b"second")
    assert machine.create("run.json", b"first"), "a repeated request meets its own object"
    assert machine.read("run.json") == b"first" and not machine.is_empty()
    assert machine.names("encode/x", ".json") == [] and machine.folders() == []
    record = perform(machine, work()).record
    assert machine.names("encode/x", ".json") == [record.path] and machine.folders() == ["encode", "encode/x"]
    for name in ("../x", "a/../../x", "/etc/x", "a\0b"):
        with pytest.raises(ValueError, match="would leave"):
            machine.read(name)


def test_looking_at_many_results_asks_for_them_together(s3: Server, tmp_path: Path) -> None:
    works = [Work("encode", "encode/x", f"part-{n:05d}", work().compute, shard=n) for n in range(5)]
    for one in works:
        perform(store(tmp_path / "a"), one)
    machine = store(tmp_path / "b")
    s3.seen.clear()
    assert all(find(machine, one) for one in works)
    assert not [path for method, path in s3.seen if path.endswith(".parquet")], "listings tell sizes"
    asked = len(s3.seen)
    assert all(find(machine, one) for one in works) and len(s3.seen) == asked
    other = store(tmp_path / "c")
    perform(other, works[0], redo=True)
    assert find(other, works[0]) and find(store(tmp_path / "d"), works[0])


def test_the_newest_folder_is_there_whole_or_not_at_all(s3: Server, tmp_path: Path) -> None:
    series = NewestFolder(RemoteFolder(URL), "train/fused/checkpoints.k")
    assert series.newest() is None and series.fetch(tmp_path / "other") is None
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("model", "state"):
            (folder / name).write_text(f"{name} {step}")
    assert series.send(tmp_path / "checkpoint-1")
    s3.broken = lambda method, path: 500 * (method == "PUT" and path.endswith("state"))
    with pytest.raises(StoreFailed):
        series.send(tmp_path / "checkpoint-2")
    assert not series.send(tmp_path / "checkpoint-2", stopped=lambda: True)
    s3.as_usual()
    fetched = series.fetch(tmp_path / "other")
    assert fetched and fetched.name == "checkpoint-1" and (fetched / "state").read_text() == "state 1"
    assert series.send(tmp_path / "checkpoint-2")
    assert len([name for name in s3.objects() if "checkpoint-1" in name]) == 0
    (name,) = (name for name in s3.objects() if name.endswith("model"))
    s3.client.put_object(Bucket="bucket", Key=name, Body=b"medol 2")
    assert series.fetch(tmp_path / "third") is None and not (tmp_path / "third" / "checkpoint-2").exists()
    series.remove()
    assert not s3.objects()


def test_a_copy_in_a_record_is_what_was_sent(s3: Server, tmp_path: Path) -> None:
    record: Record = perform(store(tmp_path / "a"), work()).record
    (file,) = record.files
    assert file.checksum == checksum_file(store(tmp_path / "b").file(record, file))
    assert file.name == f"{record.name}.{record.key}.parquet", "names in records are those of a local run"


@pytest.mark.parametrize(
    ("url", "said"),
    [("s3://me:hidden@bucket/x", "user or password"), ("s3://hidden@bucket", "user or password"),
     ("file:///data/runs", "Give its path"), ("https://host/bucket", "AWS_ENDPOINT_URL"), ("s3:///x", "no bucket"),
     ("s3://bucket/x?versionId=3", "a protocol and a path"), ("s3://bucket/../x", "no bucket"),
     ("simplecache::s3://bucket/x", "a protocol and a path")],
)  # fmt: skip
def test_urls_that_are_refused(url: str, said: str) -> None:
    assert is_url(url)
    with pytest.raises(BadInput, match=said) as raised:
        check_url(url, "execution.folder")
    assert "hidden" not in str(raised.value)


def test_no_field_of_a_recipe_takes_a_password() -> None:
    for field in ("target.revision", "execution.wandb", "corpus.text_column", "target.name"):
        with pytest.raises(BadInput, match=rf"{field}: https://host/x was given with a user or") as raised:
            read_recipe("tiny", [f"{field}=https://me:hidden@host/x"])
        assert "hidden" not in str(raised.value)


def test_paths_are_no_urls_and_urls_have_copies_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGITFUSE_CACHE", str(tmp_path))
    assert not any(map(is_url, ["runs", "/data/runs", "./runs", "C:runs", "package:demo", "owner/name", "~/runs"]))
    places = {run_folder(folder, "tiny") for folder in ("s3://bucket/a", "s3://bucket/b/", "s3://bucket/b")}
    assert len(places) == 2 and all(place.parent == tmp_path / "runs" for place in places)
    assert open_store("s3://bucket/a/", "tiny").place == "s3://bucket/a/tiny"
    assert open_store("runs", "tiny").place == "runs/tiny"


def test_nobody_pays_for_a_store_that_is_not_used() -> None:
    modules = "logitfuse.storage.places, logitfuse.storage.fetched, logitfuse.storage.object_store"
    code = f"import sys, {modules}; sys.exit(bool({{'fsspec', 's3fs', 'botocore'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stores_without_a_package_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"not installed.*gcsfs"):
        ObjectStore("gs://bucket/x", tmp_path).read("run.json")
    with pytest.raises(BadInput, match="Protocol not known"):
        ObjectStore("nothing://bucket/x", tmp_path).read("run.json")


def test_what_lies_under_a_key_goes_from_the_store_and_from_the_copy(s3: Server, tmp_path: Path) -> None:
    machine = store(tmp_path / "one")
    stale = replace(work("a", folder=True), fingerprints={"model": "another"})
    gone, kept = perform(machine, stale), perform(machine, work("b"))
    found = {one.key: one for one in machine.under_keys("encode/x")}
    assert found[kept.record.key].bytes == sum(file.bytes for file in kept.record.files) + len(to_bytes(kept.record))
    machine.remove_under_key(found[gone.record.key])
    assert not [name for name in s3.objects() if gone.record.key in name]
    assert not [path for path in tmp_path.rglob("*") if gone.record.key in path.name and path.suffix != ".lock"]
    assert content(kept, store(tmp_path / "two")) == "b" and find(store(tmp_path / "two"), stale) is None
