"""A sample of a run's text: documents as stage prepare cuts them, in blocks of known size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from logitfuse.kernels.chunks import cut
from logitfuse.tasks.corpus.documents import Document
from logitfuse.tasks.corpus.settings import CorpusSettings

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run


class Text(NamedTuple):
    """A document and the chunks it is cut into."""

    document: Document
    chunks: list[str]


@dataclass(frozen=True)
class Stratum:
    """Part of a corpus: documents in blocks, each block's size, and the part's size in the same unit."""

    blocks: list[list[Text]]
    sizes: list[float]
    total: float


@dataclass(frozen=True)
class Sample:
    """What was read of a corpus; `how` says in words what it stands for."""

    strata: list[Stratum]
    whole: bool
    how: str
    known: dict[str, float] = field(default_factory=dict)  # counted on all of it, where only some is in the strata
    dropped: dict[str, int] = field(default_factory=dict)  # repeat held-out text: by reason, where known

    @property
    def texts(self) -> list[Text]:
        return [text for stratum in self.strata for block in stratum.blocks for text in block]


def as_text(run: Run, document: Document, settings: CorpusSettings | None) -> Text:
    """Cut a document as stage prepare will; `settings` of one that its reader has not shortened yet."""
    corpus = run.recipe.corpus
    if settings is not None and settings.max_document_bytes is not None:
        most = settings.max_document_bytes
        document = replace(document, text=cut(document.text[: most + 1], most)[0])
    if run.published_split:
        return Text(document, run.published_split(document.text))
    return Text(document, cut(document.text, corpus.max_chunk_bytes))
