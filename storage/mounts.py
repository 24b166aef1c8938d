"""What file system a folder is on, and whether a lock in it holds on other hosts too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

# Options of a mount with which flock is this host's affair, by the kind of file system.
LOCAL_BY_OPTION = {
    "nfs": {"nolock", "local_lock=flock", "local_lock=all"},
    "nfs4": {"local_lock=flock", "local_lock=all"},
    "lustre": {"localflock"},
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
}
# These keep flock to this host, or hand it on only where their server is set up for it, which cannot be seen from here.
LOCAL = frozenset({"beegfs", "9p", "vboxsf", "fuse.vmhgfs-fuse", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse",
                   "fuse.rclone", "fuse.goofys", "fuse.mount-s3", "fuse.geesefs", "fuse.blobfuse2"})  # fmt: skip


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    point: str
    kind: str
    options: frozenset[str]


def locks_of_this_host_only(folder: Path) -> str | None:
    """Return what the folder's file system is called if a lock there does not hold on other hosts that share it.

    None also where that cannot be told.
    """
    mount = mount_of(folder, _mounts())
    if mount is None:
        return None
    if local := sorted(mount.options & LOCAL_BY_OPTION.get(mount.kind, set())):
        return f"{mount.kind} with {', '.join(local)}"
    return mount.kind if mount.kind in LOCAL else None


def mount_of(folder: Path, mounts: list[Mount]) -> Mount | None:
    """Return the mount that a folder is on: of those above it the deepest, of equal ones the last."""
    path = os.path.realpath(folder)
    above = [mount for mount in mounts if os.path.commonpath([path, mount.point]) == mount.point]
    return max(reversed(above), key=lambda mount: len(mount.point), default=None)


def read_mounts(text: str) -> list[Mount]:
    """Read the lines of /proc/self/mountinfo."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), (after.split(" ", 2) + ["", "", ""])[:3]
        point = fields[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")
        found.append(Mount(point, kind, frozenset(f"{fields[5]},{options}".split(","))))
    return found


def _mounts() -> list[Mount]:
    try:
        return read_mounts(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    except (OSError, IndexError):  # no Linux
        return []
