"""What the text of a corpus is, as one checksum: of its files' contents, or of the hub's commit."""

import json
from functools import lru_cache
from pathlib import Path

from logitfuse.storage.checksums import checksum_bytes, checksum_file
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.files import list_files
from logitfuse.tasks.corpus.hub import is_saved_dataset, resolved_revision
from logitfuse.tasks.corpus.readers import is_hub_source, located
from logitfuse.tasks.corpus.settings import CorpusSettings


def corpus_fingerprint(settings: CorpusSettings) -> str:
    """Return `sha256:<hex>` over the names (below the source) and contents of the corpus files, in reading order.

    For a hub data set it is over its id, subset and commit. Where the files lie does not matter. Raises BadInput
    where there is nothing to read or the hub cannot say which commit a branch is at.
    """
    settings = located(settings)
    if is_hub_source(settings):
        return _over(["hub", settings.source, settings.subset, resolved_revision(settings)])
    root, files = _files(settings)
    return _over([[file.relative_to(root).as_posix(), _checksum(file, *_stamp(file))] for file in files])


def _stamp(file: Path) -> tuple[int, int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


@lru_cache(maxsize=4096)
def _checksum(file: Path, size: int, time: int, inode: int) -> str:
    """Checksum a file; its stamp only spares reading it again within one process."""
    try:
        return checksum_file(file)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error


def _files(settings: CorpusSettings) -> tuple[Path, list[Path]]:
    folder = Path(settings.source)
    if folder.is_dir() and is_saved_dataset(folder):
        return folder, sorted(folder.rglob("*.arrow"))  # the JSON beside them changes with every save
    return list_files(settings.source, settings.format)


def _over(facts: list[object]) -> str:
    return checksum_bytes(json.dumps(facts).encode())
