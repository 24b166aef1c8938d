"""Rows that cannot be documents: refused, or passed over with a note of each, as the settings say."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import Row, SplitName, document_of
from logitfuse.tasks.corpus.settings import CorpusSettings

Note = Callable[[str, str], None]  # where a row stands, and what is wrong with it


def unnoted(where: str, why: str) -> None:
    """A note that nobody keeps: of a pass over a corpus that another pass keeps notes of."""


def quarantines(settings: CorpusSettings) -> bool:
    """Return whether bad documents are left out and listed, instead of refused."""
    return settings.on_bad_document == "quarantine"


class BadDocuments:
    """What becomes of bad documents in one pass over a corpus; `last` is where the last one stands."""

    def __init__(self, settings: CorpusSettings, note: Note) -> None:
        self._quarantines = quarantines(settings)
        self._note = note
        self.last: str | None = None

    @contextmanager
    def passed_over(self, where: str) -> Iterator[None]:
        """Let `BadInput` of the block pass, with how to go on without the row; or note it and set `last`."""
        try:
            yield
        except BadInput as error:
            if not self._quarantines:
                raise BadInput(
                    f"{error} Or set on_bad_document to quarantine: such rows are left out and listed."
                ) from error
            self.last = where
            self._note(where, str(error))


def require_a_document(rows: Iterable[Row], split: SplitName | None, settings: CorpusSettings) -> None:
    """Raise BadInput, the first row's, where no row (or, where bad ones are not quarantined, the first) can be used."""
    first: BadInput | None = None
    for row in rows:
        try:
            document_of(row, split, settings)
            return
        except BadInput as error:
            first = first or error
            if not quarantines(settings):
                break
    if first is not None:
        raise first
