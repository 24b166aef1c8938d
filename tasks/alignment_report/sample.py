"""The text a report counts on: files, a packaged text, or a few sentences in many scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from logitfuse.kernels.chunks import cut
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.alignment_report.multiscript import TEXTS
from logitfuse.tasks.corpus.documents import NO_DOMAIN
from logitfuse.tasks.corpus.readers import read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings

BUILT_IN = "built-in sentences in many scripts"
CHUNK_BYTES = int(CorpusSettings.model_fields["max_chunk_bytes"].default)
# The readers' advice on what to set in a recipe: a sentence that names one of its fields, and what follows.
_RECIPE_ADVICE = re.compile(rf"(?<=\.) [A-Z][^.]*\b({'|'.join(CorpusSettings.model_fields)})\b.*", re.DOTALL)


@dataclass(frozen=True)
class Sample:
    """Chunks of text with their domain, cut as a run cuts them; `name` says where they come from."""

    name: str
    chunks: tuple[tuple[str, str], ...]  # (domain, text)
    documents: int
    bytes: int
    cut_short: bool


def read_sample(sources: Sequence[str], max_bytes: int) -> Sample:
    """Return the first `max_bytes` bytes of the sources, cut into chunks; of none, the built-in sentences.

    A source is what a recipe's `corpus.source` may be: a .txt, .jsonl or .parquet file, a folder of them,
    `package:demo`, or a hub data set. Raises BadInput where one cannot be read or all of them hold no text.
    """
    chunks: list[tuple[str, str]] = []
    documents = total = 0
    cut_short = False
    for domain, text in _documents(sources):
        if cut_short := total >= max_bytes:
            break
        documents += 1
        for chunk in cut(text, CHUNK_BYTES):
            if cut_short := total >= max_bytes:
                break
            chunks.append((domain, chunk))
            total += len(chunk.encode())
    if total == 0:
        raise BadInput(f"{', '.join(sources)}: there is no text in it. Give --text a file that holds some.")
    return Sample(", ".join(sources) or BUILT_IN, tuple(chunks), documents, total, cut_short)


def _documents(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not sources:
        yield from TEXTS
    for source in sources:
        try:
            for document in read_documents(CorpusSettings(source=source)):
                # Several files without domains are told apart by their names.
                named = len(sources) > 1 and document.domain == NO_DOMAIN
                yield (source if named else document.domain), document.text
        except BadInput as error:
            raise BadInput(_said_of_text(source, str(error))) from error


def _said_of_text(source: str, message: str) -> str:
    """Say what a reader of corpora says in terms of this command, which has no recipe to set fields in."""
    found, cut = _RECIPE_ADVICE.subn("", message)
    advice = (
        " Give --text a .txt file, a .jsonl or .parquet file with a column 'text', or a folder of one kind of them; "
        f"paths are relative to {Path.cwd()}."
    )
    return f"--text {source or repr(source)}: {found.strip()}{advice if cut else ''}"
