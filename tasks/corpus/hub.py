"""Data sets of the `datasets` library: streamed from the hub, or in a folder that `save_to_disk` wrote.

Nothing a data set brings is executed: loading scripts are not supported by `datasets` since version 4.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import Row, SplitName, wanted_columns
from logitfuse.tasks.corpus.files import SPLIT_ORDER
from logitfuse.tasks.corpus.rows import BATCH_ROWS, batch_rows, check_schema
from logitfuse.tasks.corpus.settings import CorpusSettings

Opened = dict[SplitName | None, Callable[[], Iterator[Row]]]

HUB_TIMEOUT = 10  # seconds


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `datasets` wrote this folder: a dictionary of splits, or a single data set."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_hub_id(source: str) -> bool:
    """Return whether the source reads like the id of a hub data set: `name` or `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", source) is not None


def open_saved(settings: CorpusSettings) -> Opened:
    """Open a folder of `save_to_disk`; a single data set has no splits of its own."""
    import datasets

    folder = settings.source
    try:
        saved = datasets.load_from_disk(folder)
    except Exception as error:  # of many kinds: whatever is wrong, the folder is
        raise BadInput(f"{folder} cannot be opened as a folder of save_to_disk: {error}. Write it again.") from error
    if not isinstance(saved, datasets.DatasetDict):
        return {None: lambda: _saved_rows(saved, Path(folder).name, folder, settings)}
    return {split: _saved_split(saved, name, settings) for split, name in _present(list(saved), settings).items()}


def open_hub(settings: CorpusSettings) -> Opened:
    """Open a hub data set for streaming; raises BadInput, with what to do instead, where the hub cannot give it."""
    import datasets

    source, subset = settings.source, settings.subset
    revision = _commit(settings)  # pinned, so that every pass reads the same; and at once known to be reachable
    try:
        names = datasets.get_dataset_split_names(source, subset, revision=revision)
        streams = {
            split: datasets.load_dataset(source, subset, split=name, revision=revision, streaming=True)
            for split, name in _present(names, settings).items()
        }
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(_unreachable(settings, error)) from error
    return {split: _stream_split(stream, split, settings) for split, stream in streams.items()}


def resolved_revision(settings: CorpusSettings) -> str:
    """Return the commit of a hub data set that the settings mean; a full commit id needs no connection."""
    if settings.revision and re.fullmatch(r"[0-9a-f]{40}", settings.revision):
        return settings.revision
    return _commit(settings)


def _commit(settings: CorpusSettings) -> str:
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(settings.source, revision=settings.revision, timeout=HUB_TIMEOUT)
    except Exception as error:
        raise BadInput(_unreachable(settings, error)) from error
    return str(info.sha)


def _present(names: list[str], settings: CorpusSettings) -> dict[SplitName, str]:
    asked = {"train": settings.train_split, "validation": settings.validation_split, "test": settings.test_split}
    if settings.train_split not in names:
        raise BadInput(
            f"{settings.source} has no split '{settings.train_split}'; it has: {', '.join(names)}. "
            f"Set train_split to one of these."
        )
    return {split: name for split in SPLIT_ORDER if (name := asked[split]) is not None and name in names}


def _saved_split(saved: Any, name: str, settings: CorpusSettings) -> Callable[[], Iterator[Row]]:
    return lambda: _saved_rows(saved[name], name, f"{settings.source}, split {name}", settings)


def _saved_rows(dataset: Any, stem: str, where: str, settings: CorpusSettings) -> Iterator[Row]:
    check_schema(dataset.features.arrow_schema, settings, where)
    columns = dataset.select_columns(wanted_columns(dataset.column_names, settings))
    return batch_rows(columns.with_format("arrow").iter(BATCH_ROWS), stem, where)


def _stream_split(stream: Iterable[dict[str, Any]], name: str, settings: CorpusSettings) -> Callable[[], Iterator[Row]]:
    where = f"{settings.source}, split {name}"
    return lambda: (
        Row(values, f"{name}-{number:08d}", f"{where}, row {number}") for number, values in enumerate(stream)
    )


def _unreachable(settings: CorpusSettings, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"'{settings.source}' is no file or folder here, and the hub could not give it as a data set ({reason}). "
        f"Check its name, subset and revision and the connection; or download it on a machine that is connected "
        f"(`datasets.load_dataset(...).save_to_disk(folder)`, or its Parquet files) and set source to that folder."
    )
