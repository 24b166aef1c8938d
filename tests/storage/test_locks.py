"""Who holds a lock, who left one behind, and file systems whose locks do not reach other hosts, or that have none."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from logitfuse.storage.errors import SystemRefused
from logitfuse.storage.locks import only_one
from logitfuse.storage.mounts import mount_of, read_mounts

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:40 / /srv/old\040runs rw,relatime shared:2 - nfs server:/runs rw,vers=3,nolock,local_lock=all
41 22 0:41 / /srv/runs rw - nfs4 server:/runs rw,vers=4.2,local_lock=none
42 22 0:42 / /srv/runs/bucket rw,nosuid master:1 propagate_from:2 - fuse.s3fs s3fs rw
"""


def test_a_lock_says_who_holds_it_and_nothing_once_it_is_given_back(tmp_path: Path) -> None:
    lock = tmp_path / "unit.lock"
    with only_one(lock):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert lock.read_text() == ""


def test_what_another_host_began_and_did_not_end_is_said_and_taken_over(tmp_path: Path) -> None:
    said: list[str] = []
    lock = tmp_path / "unit.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with only_one(lock, said.append):
        assert len(said) == 1 and "process 7 on elsewhere began it and did not end it" in said[0]
    for left in ("", "half a", "[1]", json.dumps({"host": os.uname().nodename, "pid": 7})):
        lock.write_text(left)
        with only_one(lock, said.append):
            assert len(said) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(SystemRefused, match="its file system has no locks"), only_one(tmp_path / "unit.lock"):
        pass


@pytest.mark.parametrize(
    ("folder", "kind", "option"),
    [
        ("/home/me/runs", "ext4", "relatime"),
        ("/srv/old runs/demo", "nfs", "local_lock=all"),
        ("/srv/runs/demo", "nfs4", "local_lock=none"),
        ("/srv/runs/bucket/demo", "fuse.s3fs", "rw"),
        ("/srv/runs/buckets", "nfs4", "vers=4.2"),
    ],
)
def test_the_file_system_of_a_folder_is_found(folder: str, kind: str, option: str) -> None:
    mount = mount_of(Path(folder), read_mounts(MOUNTS.strip()))
    assert mount and mount.kind == kind and option in mount.options
