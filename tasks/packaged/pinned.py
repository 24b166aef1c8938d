"""Which file of which package: pinned by its SHA-256, and verified before it is opened."""

from dataclasses import dataclass
from pathlib import Path

from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import ModelRefused


@dataclass(frozen=True)
class PackageFile:
    """One file of a package index: which package, what the file is called, and the SHA-256 (hex) of its bytes.

    A source archive also names the build backend of its `pyproject.toml`, for which a stand-in is then put.
    """

    requirement: str
    file: str
    sha256: str
    backend: str | None = None


def verify_file(path: Path, sha256: str) -> None:
    """Raise ModelRefused unless the file's SHA-256 (hex) is the pinned one."""
    found = checksum_file(path).removeprefix("sha256:")
    if found != sha256:
        raise wrong_bytes(path, sha256, found)


def wrong_bytes(path: Path, expected: str, found: str) -> ModelRefused:
    """Return the error for a file whose SHA-256 is not the pinned one."""
    return ModelRefused(
        f"{path}: these are not the bytes this version was made for (expected sha256 {expected}, found {found}). "
        f"Delete the file if it is there and run again; if that does not help, do not trust where it comes from."
    )
