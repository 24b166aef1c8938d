"""Copies of what users keep in object stores, corpora and models, as files on this machine."""

import glob
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from logitfuse.storage.atomic import SCRATCH_PREFIX, replacing
from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import BadInput, StoreFailed
from logitfuse.storage.locks import only_one
from logitfuse.storage.remote import RemoteFolder
from logitfuse.storage.urls import check_url, copies_folder

KIND = "fetched"
STAMPS = ".fetched.json"  # what each copy was made from, and its checksum
VERSION_FACTS = ("ETag", "etag", "generation", "md5", "last_modified", "mtime", "created")  # the first one that is told
Wanted = Callable[[str], bool]  # told a name below the URL


@lru_cache(maxsize=64)
def fetched(url: str, wanted: Wanted, field: str) -> Path:
    """Return a local file, folder or glob with the bytes of the one at a URL, whose names below it stay the same.

    Of a folder those `wanted` are fetched. What has not changed since the last time is not fetched again; within one
    process a URL stays what it was. Raises `BadInput` where nothing is there, `StoreFailed` if it cannot be read.
    """
    url = check_url(url, field)
    folder = copies_folder(url, KIND)
    with only_one(folder.with_name(f".{folder.name}.lock")):
        root, rest = _fixed_part(url)
        remote = RemoteFolder(root, look=False)
        found = _objects(remote, rest, wanted)
        if not found:
            raise BadInput(
                f"{field}: there is nothing to read at {url}. Check the name; folders and files count alike."
            )
        _bring_up_to_date(remote, found, folder)
    return folder / rest if rest else folder


def _fixed_part(url: str) -> tuple[str, str]:
    """Return the folder whose objects are looked at, and the file's name or the pattern below it."""
    protocol, path = url.split("://", 1)
    parts = path.split("/")
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    whole = fixed == len(parts)
    folder = f"{protocol}://{'/'.join(parts[:fixed])}"
    if whole and len(parts) > 1 and RemoteFolder(folder.rpartition("/")[0], look=False).size(parts[-1]) is not None:
        return folder.rpartition("/")[0], parts[-1]
    return folder, "/".join(parts[fixed:])


def _objects(remote: RemoteFolder, rest: str, wanted: Wanted) -> dict[str, dict[str, Any]]:
    if rest and not glob.has_magic(rest):
        facts = remote.info(rest)
        return {rest: facts} if facts else {}
    found = {name: facts for name, facts in remote.list().items() if not name.endswith("/")}
    return {name: facts for name, facts in found.items() if _matches(name, rest) and (rest or wanted(name))}


def _matches(name: str, pattern: str) -> bool:
    """Whether glob would find a path below the folder by the pattern; `**` stands for any folders."""
    return not pattern or glob_match(PurePosixPath(name).parts, PurePosixPath(pattern).parts)


def glob_match(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Match a path's parts with a pattern's, hidden ones only where the pattern says so."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(glob_match(parts[n:], pattern[1:]) for n in range(len(parts) + 1))
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return PurePosixPath(parts[0]).match(pattern[0]) and glob_match(parts[1:], pattern[1:])


def _bring_up_to_date(remote: RemoteFolder, found: dict[str, dict[str, Any]], folder: Path) -> None:
    known = _stamps(folder)
    stamps = {}
    for name, facts in sorted(found.items()):
        version, file = _version(facts), folder / name
        stamp = known.get(name, {})
        if stamp.get("version") != version or not file.is_file() or checksum_file(file) != stamp["checksum"]:
            stamp = {"version": version, "checksum": _fetch(remote, name, version, file)}
        stamps[name] = stamp
    for file in (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(SCRATCH_PREFIX)):
        if file.relative_to(folder).as_posix() not in stamps and file.name != STAMPS:
            file.unlink()  # it is there no more
    with replacing(folder / STAMPS) as scratch:
        scratch.write_text(json.dumps(stamps, indent=1))


def _fetch(remote: RemoteFolder, name: str, version: str, file: Path) -> str:
    remote.download(name, file)
    facts = remote.info(name)
    if facts is None or _version(facts) != version:
        raise StoreFailed(f"{remote.url}/{name} was changed while it was read. Run the same command again.")
    return checksum_file(file)


def _version(facts: dict[str, Any]) -> str:
    told = (str(facts[name]) for name in VERSION_FACTS if facts.get(name) is not None)
    return f"{facts['size']} {next(told, '')}"


def _stamps(folder: Path) -> dict[str, dict[str, str]]:
    try:
        found = json.loads((folder / STAMPS).read_text())
        return {name: {part: str(stamp[part]) for part in ("version", "checksum")} for name, stamp in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
