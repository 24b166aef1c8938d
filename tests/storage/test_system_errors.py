"""What the operating system says, in words: what it is, what stays, and what to do."""

import errno
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from logitfuse.storage.atomic import replacing, write_exclusively
from logitfuse.storage.errors import LogitfuseError, OutOfSpace, ShardMissing, StoreFailed, SystemRefused
from logitfuse.storage.system_errors import errno_of, explained, in_words, out_of_memory


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, OutOfSpace, "is full ("),
        (errno.EDQUOT, OutOfSpace, "the quota on the disk of"),
        (errno.EFBIG, OutOfSpace, "ulimit -f"),
        (errno.EROFS, SystemRefused, "mounted for writing"),
        (errno.EACCES, SystemRefused, "belongs to this user"),
        (errno.EMFILE, SystemRefused, "ulimit -n"),
        (errno.EIO, StoreFailed, "dmesg"),
        (errno.ESTALE, StoreFailed, "network file system"),
        (errno.ENOENT, ShardMissing, "--redo"),
    ],
)
def test_each_says_what_stays_and_what_to_do(
    tmp_path: Path, number: int, kind: type[LogitfuseError], words: str
) -> None:
    with pytest.raises(kind) as told, in_words("fuse/part-00003", tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "fuse" / "x"))
    line = str(told.value)
    assert line.startswith("fuse/part-00003: ") and words in line and "\n" not in line
    assert "What was finished stays." in line and line.endswith("run the same command again.")


def test_what_libraries_wrap_is_recognised_and_what_is_no_refusal_is_left_alone(tmp_path: Path) -> None:
    assert errno_of(RuntimeError("I/O error: No space left on device (os error 28)")) == errno.ENOSPC
    assert errno_of(RuntimeError("Detail: [errno 122] Disk quota exceeded")) == errno.EDQUOT
    for error in (ValueError("28"), FileNotFoundError(errno.ENOENT, "no", "/elsewhere"), OSError("no number")):
        assert explained(error, "", tmp_path) is None
    with pytest.raises(OutOfSpace, match=r"^mine$"), in_words("x", tmp_path):
        raise OutOfSpace("mine")


def test_a_file_that_went_away_is_told_also_where_arrow_misses_it(tmp_path: Path) -> None:
    with pytest.raises(ShardMissing, match=r"shard\.parquet went away"), in_words("fuse/part-00003", tmp_path):
        pq.ParquetFile(tmp_path / "shard.parquet")


def test_what_lies_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "shard").mkdir()
    told = pytest.raises(SystemRefused, match=rf"{tmp_path}/shard is in the way: Is a dir.*rm -r {tmp_path}/shard")
    with told, in_words("fuse/part-00003", tmp_path), replacing(tmp_path / "shard") as scratch:
        scratch.touch()
    (tmp_path / "fuse").touch()
    with pytest.raises(SystemRefused, match=rf"{tmp_path}/fuse is in the way"), in_words("fuse/part-00003", tmp_path):
        (tmp_path / "fuse" / "x").mkdir()


def test_no_message_repeats_a_password() -> None:
    said = str(StoreFailed("no answer for url 'https://me:p@ss@mirror.example.org/x' and s3://key@bucket/x; a@b stays"))
    assert said == "no answer for url 'https://mirror.example.org/x' and s3://bucket/x; a@b stays"


def test_full_memory_is_told_from_other_errors() -> None:
    for said in ("[enforce fail] DefaultCPUAllocator: can't allocate memory", "can't start new thread"):
        assert "memory is full" in str(out_of_memory(RuntimeError(said)))
    for error in (MemoryError(), OSError("Unknown error: Failed to launch worker thread: Resource unavailable")):
        assert "memory is full. What was finished stays. Lower" in str(out_of_memory(error))
    assert out_of_memory(RuntimeError("shape mismatch")) is None


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, path: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(SystemRefused, match="has no hard links"):
        write_exclusively(tmp_path / "record", b"x")
    assert not list(tmp_path.iterdir())


def test_a_link_whose_answer_was_lost_counts_as_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Path, path: Path) -> None:
        real(source, path)
        real(source, path)  # as a network file system asks again

    monkeypatch.setattr(os, "link", link)
    assert write_exclusively(tmp_path / "record", b"x")
