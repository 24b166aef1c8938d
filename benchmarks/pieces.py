"""Files and folders in pieces of a limited size, with checksums, that may arrive one by one and in any order."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from logitfuse.storage.atomic import replacing
from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import BadInput, ShardCorrupt

MANIFEST, JOINED, ARRIVED = "pack.json", "joined.json", ".pieces"
READ = 1 << 20


class PieceWriter(io.RawIOBase):
    """A file that is written as several ones, `pack.000` and so on."""

    def __init__(self, folder: Path, piece_bytes: int) -> None:
        self.folder, self.piece_bytes = folder, piece_bytes
        self.pieces: list[dict[str, Any]] = []
        self._file: IO[bytes] | None = None
        self._left, self._hash = 0, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes, in as many pieces as they need."""
        rest = memoryview(data)
        while len(rest):
            if not self._left:
                self._begin()
            now, rest = rest[: self._left], rest[self._left :]
            assert self._file is not None
            self._file.write(now)
            self._hash.update(now)
            self._left -= len(now)
        return len(data)

    def _begin(self) -> None:
        self._end()
        name = f"pack.{len(self.pieces):03d}"
        self._file, self._left, self._hash = (self.folder / name).open("wb"), self.piece_bytes, hashlib.sha256()
        self.pieces.append({"name": name})

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            size = self.piece_bytes - self._left
            self.pieces[-1] |= {"bytes": size, "checksum": f"sha256:{self._hash.hexdigest()}"}

    def close(self) -> None:
        """Finish the last piece."""
        if not self.closed:
            self._end()
        super().close()


def pack(content: Iterable[tuple[Path, str]], folder: Path, piece_bytes: int) -> list[dict[str, Any]]:
    """Write files and folders, each under a name, as pieces and a manifest; return the pieces' names and sizes.

    The folder's earlier pieces are removed. Raises `BadInput` for a file that is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("pack.*"):
        old.unlink()
    writer = PieceWriter(folder, piece_bytes)
    with tarfile.open(mode="w|", fileobj=writer, bufsize=READ) as archive:
        for path, name in content:
            if not path.exists():
                raise BadInput(f"{path}: there is no such file or folder to be packed.")
            archive.add(path.resolve(), name)
    writer.close()
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "pieces": writer.pieces}, indent=1) + "\n")
    return writer.pieces


def join(pieces: Path, into: Path) -> list[str]:
    """Take the pieces that are in a folder, and unpack all once the last has come; return those still missing.

    Pieces are kept in `into` until then, so each call may bring others. Raises `BadInput` without a manifest,
    `ShardCorrupt` for a piece that is not as it was packed.
    """
    manifest = _manifest(pieces, into)
    if (into / JOINED).is_file() and json.loads((into / JOINED).read_text()) == manifest:
        return []
    arrived = into / ARRIVED
    _keep_manifest(manifest, arrived)
    for piece in manifest["pieces"]:
        if (pieces / piece["name"]).is_file() and not (arrived / piece["name"]).is_file():
            _take(pieces / piece["name"], arrived / piece["name"], piece)
    missing = [piece["name"] for piece in manifest["pieces"] if not (arrived / piece["name"]).is_file()]
    if not missing:
        _unpack([arrived / piece["name"] for piece in manifest["pieces"]], into)
        (into / JOINED).write_text(json.dumps(manifest))
        shutil.rmtree(arrived)
    return missing


def _manifest(pieces: Path, into: Path) -> dict[str, Any]:
    for folder in (pieces, into / ARRIVED):
        if (folder / MANIFEST).is_file():
            found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
            return found
    raise BadInput(f"{pieces} has no {MANIFEST}, and no earlier call has brought one. It belongs to the first piece.")


def _keep_manifest(manifest: dict[str, Any], arrived: Path) -> None:
    """Note what is awaited; pieces of another pack are of no use."""
    kept = arrived / MANIFEST
    if kept.is_file() and json.loads(kept.read_text()) != manifest:
        shutil.rmtree(arrived)
    arrived.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(manifest))


def _take(piece: Path, to: Path, wanted: dict[str, Any]) -> None:
    if piece.stat().st_size != wanted["bytes"] or checksum_file(piece) != wanted["checksum"]:
        raise ShardCorrupt(f"{piece} is not as it was packed: size or checksum differ. Bring it again.")
    with replacing(to) as scratch:
        shutil.copyfile(piece, scratch)


def _unpack(pieces: list[Path], into: Path) -> None:
    with ExitStack() as stack:
        stream = _Chain(stack.enter_context(piece.open("rb")) for piece in pieces)
        archive = stack.enter_context(tarfile.open(mode="r|", fileobj=stream, bufsize=READ))  # type: ignore[call-overload]
        archive.extractall(into, filter="data")


class _Chain:
    """Several files, read as one."""

    def __init__(self, files: Iterator[IO[bytes]]) -> None:
        self._files = files
        self._now = next(files, None)

    def read(self, size: int) -> bytes:
        while self._now is not None:
            if data := self._now.read(size):
                return data
            self._now = next(self._files, None)
        return b""
