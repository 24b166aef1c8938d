"""The text a report counts on: files, a packaged text, or a few sentences in many scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from logitfuse.kernels.chunks import cut
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.alignment_report.multiscript import TEXTS
from logitfuse.tasks.corpus.documents import NO_DOMAIN
from logitfuse.tasks.corpus.readers import read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings

BUILT_IN = "built-in sentences in many scripts"
CHUNK_BYTES = int(CorpusSettings.model_fields["max_chunk_bytes"].default)


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
        for document in read_documents(CorpusSettings(source=source)):
            # Several files without domains are told apart by their names.
            named = len(sources) > 1 and document.domain == NO_DOMAIN
            yield (source if named else document.domain), document.text
