"""What a document is, and how a row of any format becomes one."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from logitfuse.kernels.near_duplicates import normalise
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.settings import CorpusSettings

SplitName = Literal["train", "validation", "test"]

DOMAIN_COLUMN = "domain"  # used without being asked for, where there is one
NO_DOMAIN = "all"


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus, with the name and the split it keeps through every stage."""

    doc_id: str
    text: str
    domain: str
    split: SplitName


class Row(NamedTuple):
    """A row as a format gives it: its columns, what to call it if no column says so, where it stands (for errors).

    One that could not be read has a `problem` and no columns; rows after it keep their numbers when it is mended.
    """

    values: Mapping[str, Any]
    default_id: str
    where: str
    problem: BadInput | None = None


class BadColumn(BadInput):
    """A column that the settings name cannot be used; whoever gave it otherwise than in a recipe can be told so."""

    found = instead = ""

    @classmethod
    def of(cls, found: str, setting: str, instead: str) -> Self:
        """Say what was `found`, and that the corpus' `setting` may be set to something `instead`."""
        error = cls(f"{found} Set {setting} to {instead}.")
        error.found, error.instead = found, instead
        return error

    def advising(self, option: str) -> BadInput:
        """Return the same error for somebody who gave the column by an option of a command."""
        return BadInput(f"{self.found} Give {option} {self.instead}.")


def document_of(row: Row, split: SplitName | None, settings: CorpusSettings) -> Document:
    """Return the row's document; without a `split` of its own, its text decides (see `assigned_split`).

    Raises BadInput where the row could not be read, a column is missing or its value cannot be used.
    """
    if row.problem is not None:
        raise row.problem
    require_columns(row.values, settings, row.where)
    text = row.values[settings.text_column]
    if not isinstance(text, str):
        holds = f"{row.where}: the text column '{settings.text_column}' holds {_kind(text)}, not text."
        raise BadColumn.of(holds, "text_column", "another column, or mend or remove the row")
    encoded = encode_text(text, row.where)
    return Document(
        doc_id=row.default_id if settings.id_column is None else _id(row, settings.id_column),
        text=text,
        domain=_domain(row, settings),
        split=split or assigned_split(encoded, settings.held_out_share, settings.seed, settings.test_share),
    )


def require_columns(columns: Iterable[str], settings: CorpusSettings, where: str) -> None:
    """Raise BadInput that lists the columns there are, unless every column that the settings name is among them."""
    for setting in ("text_column", "id_column", "domain_column"):
        wanted = getattr(settings, setting)
        if wanted is not None and wanted not in columns:
            there = ", ".join(f"'{column}'" for column in columns) or "none"
            missing = f"{where}: there is no column '{wanted}'; there are: {there}."
            raise BadColumn.of(missing, setting, "one of these")


def wanted_columns(columns: Iterable[str], settings: CorpusSettings) -> list[str]:
    """Return which of the columns need to be read at all."""
    wanted = {settings.text_column, settings.id_column, settings.domain_column or DOMAIN_COLUMN}
    return [column for column in columns if column in wanted]


def encode_text(text: str, where: str) -> bytes:
    """Return the text as UTF-8; raises BadInput for half a surrogate pair, which UTF-8 cannot hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where}: character {error.start} of the text is half a surrogate pair ({text[error.start]!a}), "
            f"which is no character. Mend the row, for instance by re-encoding the text it was made from."
        ) from error


def text_key(text: bytes, size: int = 16, seed: int = 0) -> bytes:
    """Return a hash of the text's wording: equal for texts that differ only in case, spacing and punctuation."""
    return hashlib.blake2b(normalise(text) or text, digest_size=size, key=str(seed).encode()).digest()


def assigned_split(text: bytes, held_out_share: float, seed: int, test_share: float = 0.0) -> SplitName:
    """Return the split of a document whose corpus has none: by its wording and the seed alone.

    So exact duplicates fall into the same split, and neither order nor appended documents move any other. A test
    share takes from the training documents only.
    """
    rank = int.from_bytes(text_key(text, 8, seed)) / 2**64
    if rank < held_out_share:
        return "validation"
    return "test" if rank < held_out_share + test_share else "train"


def _id(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadInput(f"{row.where}: the id column '{column}' holds {_kind(value)}, not text or a whole number.")
    encode_text(str(value), row.where)
    return str(value)


def _domain(row: Row, settings: CorpusSettings) -> str:
    value = row.values.get(settings.domain_column or DOMAIN_COLUMN)
    if value is None:
        return NO_DOMAIN
    encode_text(str(value), row.where)
    return str(value)


def _kind(value: Any) -> str:
    return "nothing (null)" if value is None else f"a value of type {type(value).__name__}"
