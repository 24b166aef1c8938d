"""A folder of an object store through fsspec: whole objects in and out, and creating one only if it is absent."""

import time
import uuid
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from logitfuse.storage.atomic import replacing
from logitfuse.storage.errors import BadInput, StoreFailed
from logitfuse.storage.remote_errors import NOT_OFFERED, TAKEN, explained, store_code

SECONDS_TO_SHOW = (0.0, 0.2, 0.5, 1.0, 2.0)  # how long an uploaded object may take until the store knows it


class RemoteFolder:
    """Objects below a URL; names are relative. Every failure is a `StoreFailed` that names the URL and what to do."""

    def __init__(self, url: str, *, look: bool = True) -> None:
        """`look`: list the folder first, which tells best what is wrong with bucket or credentials."""
        self.url, self._look = url, look

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """Return fsspec's file system and the folder's path in it, after a look at whether it lets us in."""
        import fsspec  # late: who has everything on a local disk needs neither it nor s3fs

        try:
            system, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise BadInput(
                f"{self.url}: a package for it is not installed ({error}). For s3:// install logitfuse[s3]."
            ) from None
        except ValueError as error:
            raise BadInput(f"{self.url}: {error}. Write it as s3://bucket/folder.") from None
        if self._look:
            _ls(system, root, self.url)
        return system, root.rstrip("/")

    @property
    def _system(self) -> Any:
        return self._opened[0]

    def get(self, name: str) -> bytes:
        """Return an object's bytes; raise FileNotFoundError where there is none."""
        with explained(self.url, f"reading {name}", absent=True):
            return bytes(self._system.cat_file(self._path(name)))

    def get_many(self, names: list[str]) -> dict[str, bytes]:
        """Return the bytes of those objects that could be read, many at once."""
        if not names:
            return {}
        paths = {self._path(name): name for name in names}
        with explained(self.url, "reading records"):
            found = self._system.cat(list(paths), on_error="omit")
        return {paths[path]: bytes(data) for path, data in found.items() if path in paths}

    def info(self, name: str) -> dict[str, Any] | None:
        """Return what fsspec knows about an object, None where there is none."""
        try:
            with explained(self.url, f"looking for {name}", absent=True):
                found: dict[str, Any] = self._system.info(self._path(name))
        except FileNotFoundError:
            return None
        return found if found["type"] == "file" else None

    def size(self, name: str) -> int | None:
        """Return an object's size, None where there is none."""
        found = self.info(name)
        return int(found["size"]) if found else None

    def put(self, name: str, data: bytes) -> None:
        """Write a small object, whatever stood there."""
        with explained(self.url, f"writing {name}"):
            self._system.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Create a small object only if it is absent; return whether its bytes are ours.

        Where the store cannot do that it is looked for first, and of two writers at once the later one's bytes stand.
        """
        if not self.exclusive and self.size(name) is not None:
            return self.get(name) == data
        if self.exclusive:
            self._create(name, data)
        else:
            self.put(name, data)
        return self._read_back(name) == data  # a request that was repeated has met its own object

    def upload(self, file: Path, name: str) -> None:
        """Send a file as one object; return once the store tells its size, raise `StoreFailed` if it is another."""
        size, found = file.stat().st_size, None
        with explained(self.url, f"writing {name}"):
            self._system.put_file(str(file), self._path(name))
        for seconds in SECONDS_TO_SHOW:
            time.sleep(seconds)
            if (found := self.size(name)) == size:
                return
        told = "nothing" if found is None else f"{found:,} bytes"
        raise StoreFailed(
            f"{self.url}: {name} was sent with {size:,} bytes, and the store has {told}. It is not counted as done: "
            "run the same command again to send it again."
        )

    def download(self, name: str, file: Path) -> None:
        """Fetch an object to a path, whole or not at all; raise FileNotFoundError where there is none."""
        with replacing(file) as scratch, explained(self.url, f"reading {name}", absent=True):
            self._system.get_file(self._path(name), str(scratch))

    def delete(self, name: str) -> None:
        """Remove an object if it is there."""
        with suppress(FileNotFoundError), explained(self.url, f"removing {name}", absent=True):
            self._system.rm_file(self._path(name))

    def is_empty(self) -> bool:
        """Whether a listing shows nothing, apart from hidden objects."""
        found = _ls(self._system, self._path(""), self.url)
        return all(path.rsplit("/", 1)[-1].startswith(".") for path in found)

    def list(self, folder: str = "") -> dict[str, dict[str, Any]]:
        """Return what fsspec knows about each object in and below a folder, by name, as far as listings show it."""
        root = f"{self._path('')}/"
        with explained(self.url, f"listing {folder or 'it'}"):
            try:
                found = self._system.find(self._path(folder), detail=True)
            except FileNotFoundError as error:
                if store_code(error):
                    raise
                return {}
        return {path.removeprefix(root): facts for path, facts in found.items() if path.startswith(root)}

    @cached_property
    def exclusive(self) -> bool:
        """Whether the store creates an object only if it is absent; found out with an object of its own."""
        name = f".probe-{uuid.uuid4().hex}"
        try:
            return self._create(name, b"first") and not self._create(name, b"second")
        except NotImplementedError:
            return False
        finally:
            with suppress(StoreFailed):
                self.delete(name)

    def _create(self, name: str, data: bytes) -> bool:
        with explained(self.url, f"creating {name}"):
            try:
                self._system.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if store_code(error) in NOT_OFFERED:
                    raise NotImplementedError from error
                if store_code(error) not in TAKEN:
                    raise
                return False
        return True

    def _read_back(self, name: str) -> bytes | None:
        for seconds in SECONDS_TO_SHOW:
            time.sleep(seconds)
            with suppress(FileNotFoundError):
                return self.get(name)
        return None

    def _path(self, name: str) -> str:
        if name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise BadInput(f"{name!r} would leave {self.url}")
        root = self._opened[1]
        return f"{root}/{name}" if name else root


def _ls(system: Any, path: str, url: str) -> list[str]:
    with explained(url, "opening it"):
        try:
            return list(system.ls(path, detail=False))
        except FileNotFoundError as error:
            if store_code(error):  # of a bucket; a folder comes with its first object
                raise
            return []
