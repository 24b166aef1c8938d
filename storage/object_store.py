"""A run folder in an object store, worked on through a copy on this machine (docs/store.md).

Results are made in the copy as on any disk. Publishing sends their files, each as a whole object whose name holds
a checksum of the content, so that nobody's upload replaces another's; then the record, created only if it is absent.
What was made here and could not be sent stays in the copy whole, and the next run sends it.
"""

import shlex
from contextlib import suppress
from pathlib import Path

from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import ShardCorrupt, StoreFailed
from logitfuse.storage.newest import NewestFolder
from logitfuse.storage.records import Record, StoredFile, from_bytes, to_bytes
from logitfuse.storage.remote import RemoteFolder
from logitfuse.storage.snapshot import Snapshot
from logitfuse.storage.store import LocalStore
from logitfuse.storage.under_key import UnderKey, by_key, records_first

DIGITS_IN_NAMES = 12  # of the checksum; the record has all of it
TRIES = 3


class ObjectStore(LocalStore):
    """A store at a URL; `root`, its copy on this machine, also holds locks, checkpoints and what is not sent yet."""

    def __init__(self, url: str, root: Path) -> None:
        super().__init__(root)
        self.remote = RemoteFolder(url)
        self._snapshot = Snapshot(self.remote)
        self._sound: dict[Path, tuple[tuple[int, int, int], str]] = {}  # copies that were checksummed as they are now
        self._replaced: dict[str, Record] = {}  # records that were removed, whose objects go once others stand

    @property
    def place(self) -> str:
        return self.remote.url

    def create(self, name: str, data: bytes) -> bool:
        return self.remote.create(name, data)

    def remove(self, name: str) -> None:
        super().remove(name)  # also where the store is out of reach
        with suppress(FileNotFoundError, ShardCorrupt):
            self._replaced[name] = from_bytes(self.read(name), name)
        self._snapshot.forget(name)
        self.remote.delete(name)

    def read(self, name: str) -> bytes:
        return self._snapshot.record(name) or self.remote.get(name)

    def publish(self, record: Record) -> Record:
        super().publish(record)  # from now on it is not lost, whatever becomes of the network
        return self._send(record)

    def unsent(self, path: str) -> Record | None:
        try:
            record = from_bytes(super().read(path), path)
            whole = all(self._is_copy(self.local(f"{record.place}/{f.name}"), f) for f in record.files)
        except (FileNotFoundError, ShardCorrupt):
            return None
        return record if whole else None

    def send(self, record: Record) -> Record:
        return self._send(record)

    def _send(self, record: Record) -> Record:
        """Send files, then the record; of two writers the first one's stands, and what the other sent is removed."""
        for file in record.files:
            self.remote.upload(self.local(f"{record.place}/{file.name}"), object_name(record, file))
        for _ in range(TRIES):
            if self.create(record.path, to_bytes(record)):
                if (old := self._replaced.pop(record.path, None)) is not None:
                    self._remove_objects(old, used_by=record)
                return record
            if (other := self._standing(record.path)) is not None:
                super().remove(record.path)
                self._remove_objects(record, used_by=other)
                return other
            self._snapshot.forget(record.path)
            self.remote.delete(record.path)  # it is damaged, or its files are gone: what nobody can use
        raise StoreFailed(
            f"{self.place}: {record.path} was created {TRIES} times and is not there. Run the same command again."
        )

    def _standing(self, path: str) -> Record | None:
        try:
            record = from_bytes(self.remote.get(path), path)
        except (FileNotFoundError, ShardCorrupt):
            return None
        return record if all(self.remote.size(object_name(record, f)) == f.bytes for f in record.files) else None

    def _remove_objects(self, record: Record, used_by: Record) -> None:
        """Remove what no record names any more; where the bytes are the same, they are the other's too."""
        used = {object_name(used_by, file) for file in used_by.files}
        for name in {object_name(record, file) for file in record.files} - used:
            with suppress(StoreFailed):  # it is no part of any result, so nothing depends on it
                self.remote.delete(name)

    def discard(self, record: Record) -> None:
        self.remove(record.path)
        self._replaced.pop(record.path, None)
        for file in record.files:
            super().remove(f"{record.place}/{file.name}")
            self.remote.delete(object_name(record, file))

    def under_keys(self, folder: str) -> list[UnderKey]:
        """Return what listings show, and what this machine's copy has, whose bytes count only where it is alone."""
        listed = self.remote.list(folder).items()
        sizes = {name.removeprefix(f"{folder}/"): int(facts["size"]) for name, facts in listed}
        there = {found.key: found for found in by_key(folder, sizes)}
        here = {found.key: found for found in super().under_keys(folder)}
        both = {key: UnderKey(folder, key, tuple({**dict.fromkeys(there[key].names), **dict.fromkeys(here[key].names)}),
                              there[key].bytes) for key in there.keys() & here.keys()}  # fmt: skip
        return [found for _, found in sorted((there | here | both).items())]

    def remove_under_key(self, found: UnderKey) -> None:
        for name in records_first(found.names):
            self._snapshot.forget(f"{found.folder}/{name}")
            self.remote.delete(f"{found.folder}/{name}")
        super().remove_under_key(found)

    def size(self, record: Record, file: StoredFile) -> int | None:
        name = object_name(record, file)
        seen = self._snapshot.size(record.place, name)
        return self.remote.size(name) if seen is None else seen

    def checksum(self, record: Record, file: StoredFile) -> str:
        """Checksum the object itself, which becomes the copy; nothing's where a listing still shows what is gone."""
        try:
            return checksum_file(self._fetch(record, file))
        except FileNotFoundError:
            return "nothing"

    def file(self, record: Record, file: StoredFile) -> Path:
        path = self.local(f"{record.place}/{file.name}")
        return path if self._is_copy(path, file) else self._fetch(record, file)

    def folder(self, record: Record) -> Path:
        for file in record.files:
            self.file(record, file)
        return self.local(record.folder)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the names that listings show, which may lag behind: never what decides whether a result stands."""
        found = (name for name in self.remote.list(folder) if name.rpartition("/")[0] == folder)
        return sorted(n for n in found if n.endswith(suffix) and not n.rpartition("/")[2].startswith("."))

    def folders(self) -> list[str]:
        parents = [name.split("/")[:-1] for name in self.remote.list() if not name.startswith(".")]
        return sorted({"/".join(parts[:depth]) for parts in parents for depth in (1, 2) if len(parts) >= depth})

    def removal(self, name: str) -> str:
        place = shlex.quote(f"{self.place}/{name}")
        return f"aws s3 rm {place}" if self.place.startswith("s3:") else f"rm {place}"

    def is_empty(self) -> bool:
        return self.remote.is_empty()

    def show(self, name: str, file: Path) -> None:
        super().show(name, file)
        self.remote.put(name, self.local(name).read_bytes())

    def shown(self, name: str) -> Path:
        path = self.local(name)
        if not path.exists():
            with suppress(FileNotFoundError):
                self.remote.download(name, path)
        return path

    def newest(self, name: str) -> NewestFolder | None:
        return NewestFolder(self.remote, name)

    def _fetch(self, record: Record, file: StoredFile) -> Path:
        path = self.local(f"{record.place}/{file.name}")
        self.remote.download(object_name(record, file), path)
        return path

    def _is_copy(self, path: Path, file: StoredFile) -> bool:
        """Whether a copy has the recorded bytes; a stamp spares checksumming it twice in one process."""
        if not path.is_file() or (stat := path.stat()).st_size != file.bytes:
            return False
        stamp = stat.st_size, stat.st_mtime_ns, stat.st_ino
        if self._sound.get(path) != (stamp, file.checksum):
            if checksum_file(path) != file.checksum:
                return False
            self._sound[path] = stamp, file.checksum
        return True


def object_name(record: Record, file: StoredFile) -> str:
    """Return where a result's file lies: its name with the content's checksum behind the key."""
    mine = f"{record.name}.{record.key}"
    digits = record.checksum.removeprefix("sha256:")[:DIGITS_IN_NAMES]
    return f"{record.place}/{mine}.{digits}{file.name.removeprefix(mine)}"
