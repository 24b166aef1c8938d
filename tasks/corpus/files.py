"""Which local files a corpus is made of, in which format, and which split each belongs to."""

import glob
import re
from pathlib import Path

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import SplitName
from logitfuse.tasks.corpus.settings import CorpusSettings

ENDINGS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
    "parquet": (".parquet",),
    "text": (".txt",),
}
SPLIT_ORDER: tuple[SplitName, ...] = ("validation", "test", "train")  # held-out text is read first
_ALSO_CALLED = {"train": ("training",), "validation": ("valid", "val", "dev"), "test": ("testing", "eval")}


def list_files(source: str, format: str) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the corpus files in the order of their names.

    Of a folder those with a known ending are taken, at any depth; a file or glob is taken as it is given.
    """
    path = Path(source)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        endings = sum(ENDINGS.values(), ()) if format == "auto" else ENDINGS[format]
        try:
            found = list(path.rglob("*"))
        except OSError as error:
            raise BadInput(f"{source} cannot be looked through ({error}). Give a folder of the text alone.") from error
        files = [file for file in found if file.name.endswith(endings) and _visible(file.relative_to(path))]
        return path, _ordered(path, files, f"{source} has no {', '.join(endings)} file")
    if glob.has_magic(source):
        root = _fixed_part(path)
        files = [Path(file) for file in glob.glob(source, recursive=True)]
        return root, _ordered(root, files, f"no file matches {source}")
    raise BadInput(f"there is no file or folder {source}. Check source, which is relative to {Path.cwd()}.")


def file_format(files: list[Path], wanted: str) -> str:
    """Return the format of the files: the one asked for, or the one their endings agree on."""
    if wanted != "auto":
        return wanted
    found = {_format_of(file): file for file in files}
    if len(found) > 1:
        examples = " and ".join(str(file) for file in found.values())
        raise BadInput(
            f"the corpus mixes formats ({examples}). Set format, or set source to a glob such as '*.parquet'."
        )
    (only,) = found
    return only


def split_files(
    root: Path, files: list[Path], format: str, settings: CorpusSettings
) -> dict[SplitName, list[Path]] | None:
    """Return the files of each split where their names tell it, as hub data sets' do, else None.

    A folder called `validation` tells it, and so does a file called `validation-00000.parquet` (not for text files,
    whose names are titles). It counts only if training text and other splits can be told apart.
    """
    by_split: dict[SplitName | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(root), format, settings), []).append(file)
    if "train" not in by_split or len(by_split.keys() - {None}) < 2:
        return None
    if unknown := by_split.get(None):
        raise BadInput(f"{unknown[0]}: to which split does it belong? Others are named by theirs; rename or move it.")
    read = {"train": settings.train_split, "validation": settings.validation_split, "test": settings.test_split}
    return {split: by_split[split] for split in SPLIT_ORDER if split in by_split and read[split] is not None}


def stems(root: Path, files: list[Path]) -> list[str]:
    """Return what documents of each file are called: its path below `root` without the ending, so always different."""
    names: dict[str, Path] = {}
    for file in files:
        name = _without_ending(file.relative_to(root).as_posix())
        if name in names:
            raise BadInput(f"{names[name]} and {file} would give their documents the same ids. Rename one of them.")
        names[name] = file
    return list(names)


def _split_of(name: Path, format: str, settings: CorpusSettings) -> SplitName | None:
    words = [*name.parts[:-1]]
    if format != "text":
        words += re.split(r"[^A-Za-z0-9]+", _without_ending(name.name))
    found: set[SplitName] = set()
    for split in SPLIT_ORDER:
        asked = getattr(settings, f"{split}_split")
        found |= {split} if {split, asked, *_ALSO_CALLED[split]} & set(words) else set()
    if len(found) > 1:
        raise BadInput(f"{name}: its name tells of several splits ({', '.join(sorted(found))}). Rename it.")
    return found.pop() if found else None


def _format_of(file: Path) -> str:
    for format, endings in ENDINGS.items():
        if file.name.endswith(endings):
            return format
    raise BadInput(f"{file}: its ending tells no format ({', '.join(sum(ENDINGS.values(), ()))}). Set format.")


def _without_ending(name: str) -> str:
    for ending in sorted(sum(ENDINGS.values(), ()), key=len, reverse=True):
        if name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending)
    return name


def _ordered(root: Path, files: list[Path], nothing: str) -> list[Path]:
    files = [file for file in files if file.is_file()]
    if not files:
        raise BadInput(f"{nothing}. Check source and format.")
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())


def _fixed_part(pattern: Path) -> Path:
    fixed = pattern
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def _visible(name: Path) -> bool:
    return not any(part.startswith((".", "__")) for part in name.parts)
