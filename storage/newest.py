"""The newest of a series of folders, such as checkpoints, in an object store: for a machine that goes on with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from logitfuse.storage.atomic import replacing_folder
from logitfuse.storage.checksums import checksum_bytes, checksum_file
from logitfuse.storage.errors import StoreFailed
from logitfuse.storage.records import Name, StoredFile
from logitfuse.storage.remote import RemoteFolder

POINTER = "newest.json"
MARK = 12


class Pointer(BaseModel):
    """What names the newest folder: how it is called here, where its objects lie, and which they are."""

    folder: Name
    place: Name
    files: list[StoredFile]

    @model_validator(mode="after")
    def _lies_flat(self) -> "Pointer":
        """Whoever may write to the store may write this: no name may lead out of the folder that is fetched."""
        if any("/" in name for name in (self.folder, *(file.name for file in self.files))):
            raise ValueError("a folder of the series holds plain files")
        return self


class NewestFolder:
    """Keeps one folder of a growing series under `name`. What it holds is never needed for a result to be right.

    Its objects come first, under a name with their checksum, then a pointer that is read by its exact name: it only
    ever names a folder that is there whole, whichever of several machines wrote it last.
    """

    def __init__(self, remote: RemoteFolder, name: str) -> None:
        self._remote, self._name = remote, name

    def send(self, folder: Path, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Send a folder of plain files and let the pointer name it; return False where `stopped` came first."""
        files = [_described(path) for path in sorted(folder.iterdir()) if path.is_file()]
        mark = checksum_bytes(json.dumps(files).encode()).removeprefix("sha256:")[:MARK]
        place = f"{self._name}/{folder.name}.{mark}"
        for file in files:
            if stopped():
                return False
            self._remote.upload(folder / file["name"], f"{place}/{file['name']}")
        before = self.newest()
        self._remote.put(f"{self._name}/{POINTER}", json.dumps({"folder": folder.name, "place": place, "files": files},
                                                               indent=1).encode())  # fmt: skip
        if before and before.place != place:
            self._remove(before)
        return True

    def newest(self) -> Pointer | None:
        """Return what the pointer says, None where there is none that can be used."""
        try:
            found = Pointer.model_validate_json(self._remote.get(f"{self._name}/{POINTER}"))
        except (FileNotFoundError, ValidationError):
            return None
        return found if found.place.startswith(f"{self._name}/") else None

    def fetch(self, into: Path) -> Path | None:
        """Fetch the folder whole into a local one, and check it; None where there is none or it is damaged."""
        newest = self.newest()
        if newest is None:
            return None
        try:
            with replacing_folder(into / newest.folder) as scratch:
                for file in newest.files:
                    self._remote.download(f"{newest.place}/{file.name}", scratch / file.name)
                    if checksum_file(scratch / file.name) != file.checksum:
                        raise FileNotFoundError(file.name)
        except FileNotFoundError:
            return None
        return into / newest.folder

    def remove(self) -> None:
        """Remove all of the series, as far as listings show it."""
        newest = self.newest()
        self._remote.delete(f"{self._name}/{POINTER}")
        if newest:
            self._remove(newest)
        for name in self._remote.list(self._name):
            self._remote.delete(name)

    def _remove(self, newest: Pointer) -> None:
        for file in newest.files:
            try:
                self._remote.delete(f"{newest.place}/{file.name}")
            except StoreFailed:  # nobody reads it any more; it goes with the series
                return


def _described(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "checksum": checksum_file(path)}
