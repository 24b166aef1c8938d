"""Rows of local files, one reader per format: streamed, so that memory does not grow with a file."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from logitfuse.storage.arrow_errors import reading_arrow
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import BadColumn, Row, require_columns, wanted_columns
from logitfuse.tasks.corpus.settings import CorpusSettings

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BATCH_ROWS = 256
LONGEST_LINE = 256 << 20  # bytes: compressed, a line of any length takes no room, until it is read
LONGEST_PIECE = 1 << 20  # bytes: of a longer line, read at a time to find its end
MOSTLY_NUL = 4  # a text with more than one NUL in so many bytes is none


def jsonl_rows(file: Path, stem: str, settings: CorpusSettings) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file, compressed or not; blank lines are passed over."""
    offset = number = 0
    with _lines(file) as lines:
        for line_number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), 1):
            row = _row_of(line, f"{file}, line {line_number}", offset, f"{stem}-{number:08d}")
            if row is not None:
                yield row
                number += 1
            offset += len(line) + _rest_of(line, lines)


def _row_of(line: bytes, where: str, offset: int, name: str) -> Row | None:
    """Return the row of a line, with its problem where it has one; None for a blank line."""
    try:
        if len(line) > LONGEST_LINE:
            raise BadInput(
                f"{where}: it has more than {LONGEST_LINE >> 20} MB, and a line is read as a whole. Is this JSON, "
                "an object a line? Split the document, or leave it out."
            )
        text = decoded(line, where, offset, first=offset == 0)
        return Row(_object(text, where), name, where) if text.strip() else None
    except BadInput as problem:
        return Row({}, name, where, problem)


def _rest_of(line: bytes, lines: IO[bytes]) -> int:
    """Pass over what is left of a line that was too long to be read; return how many bytes that was."""
    passed = 0
    while len(line) > LONGEST_PIECE and not line.endswith(b"\n"):
        line = lines.readline(LONGEST_PIECE + 1)
        passed += len(line)
    return passed


def text_rows(file: Path, stem: str, settings: CorpusSettings) -> Iterator[Row]:
    """Yield the one document that a text file is."""
    try:
        with file.open("rb") as stream:
            data = stream.read(LONGEST_LINE + 1)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error
    try:
        yield Row({settings.text_column: _text_of(data, str(file))}, stem, str(file))
    except BadInput as problem:
        yield Row({}, stem, str(file), problem)


def _text_of(data: bytes, where: str) -> str:
    if len(data) > LONGEST_LINE:
        raise BadInput(
            f"{where}: it has more than {LONGEST_LINE >> 20} MB, and a text file is one document, read as a whole. "
            "Split it, or write its documents as JSON lines."
        )
    if data.count(0) * MOSTLY_NUL > len(data):  # as UTF-8 this would pass: every letter with a NUL beside it
        raise BadInput(
            f"{where}: {data.count(0)} of its {len(data)} bytes are NUL, as in UTF-16 without a byte order mark. "
            "Convert the file to UTF-8 first, for instance with iconv."
        )
    return decoded(data, where)


def parquet_rows(file: Path, stem: str, settings: CorpusSettings) -> Iterator[Row]:
    """Yield the rows of a Parquet file, reading only the columns that are needed."""
    with opened_table(file, settings) as (table, columns):
        yield from batch_rows(table.iter_batches(BATCH_ROWS, columns=columns), stem, str(file))


@contextmanager
def opened_table(file: Path, settings: CorpusSettings) -> Iterator[tuple[pq.ParquetFile, list[str]]]:
    """Open a Parquet file whose columns are those of the settings; yield it and which columns are needed.

    Whatever in the block cannot be read of it is a BadInput.
    """
    advice = "Make or download it again."
    with (
        reading_arrow(lambda said: BadInput(f"{file} cannot be read as Parquet: {said}. {advice}")),
        pq.ParquetFile(file) as table,
    ):
        check_schema(table.schema_arrow, settings, str(file))
        yield table, wanted_columns(table.schema_arrow.names, settings)


def batch_rows(batches: Iterable[pa.RecordBatch | pa.Table], stem: str, where: str) -> Iterator[Row]:
    """Yield the rows of Arrow batches, numbered from 0 across them."""
    number = 0
    for batch in batches:
        columns = {name: _values(batch.column(name), name, where, number) for name in batch.column_names}
        for index in range(batch.num_rows):
            values = {name: column[index] for name, column in columns.items()}
            problem = next((value for value in values.values() if isinstance(value, BadInput)), None)
            yield Row({} if problem else values, f"{stem}-{number:08d}", f"{where}, row {number}", problem)
            number += 1


def check_schema(schema: pa.Schema, settings: CorpusSettings, where: str) -> None:
    """Raise BadInput unless the columns that the settings name are there and the text column holds text."""
    require_columns(schema.names, settings, where)
    if twice := [name for name in wanted_columns(schema.names, settings) if schema.names.count(name) > 1]:
        raise BadInput(f"{where}: it has several columns '{twice[0]}'. Write it with one.")
    kind = schema.field(settings.text_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        holds = f"{where}: column '{settings.text_column}' holds {kind}, not text."
        raise BadColumn.of(holds, "text_column", "another")


def decoded(data: bytes, where: str, offset: int = 0, *, first: bool = True) -> str:
    """Return UTF-8 bytes as text, without the byte order mark if they are the `first` of their file."""
    try:
        return (data.removeprefix(BYTE_ORDER_MARK) if first else data).decode()
    except UnicodeDecodeError as error:
        at = offset + error.start + (len(BYTE_ORDER_MARK) if first and data.startswith(BYTE_ORDER_MARK) else 0)
        raise BadInput(
            f"{where}: byte {at} of the file (0x{error.object[error.start]:02x}) is not UTF-8. "
            f"Convert the file to UTF-8 first, for instance with iconv."
        ) from error


@contextmanager
def _lines(file: Path) -> Iterator[IO[bytes]]:
    with readable(file), gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        yield stream  # type: ignore[misc]


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Let what cannot be read of a file of lines, compressed or not, be a BadInput."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(
            f"{file} cannot be read: {error}. Make or download it again, or check its permissions."
        ) from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: this is no valid JSON ({error}). Mend or remove the line.") from error
    if not isinstance(value, dict):
        raise BadInput(
            f"{where}: expected one JSON object a line, found {type(value).__name__}. Write it as JSON lines."
        )
    return value


def _values(column: Any, name: str, where: str, first_row: int) -> list[Any]:
    """Return a column's values; in place of one that is not UTF-8, why."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pa.binary()).to_pylist()
        return [_text_or_why(v, f"{where}, row {n}, column '{name}'") for n, v in enumerate(values, first_row)]


def _text_or_why(value: bytes | None, where: str) -> str | BadInput | None:
    try:
        return None if value is None else decoded(value, where, first=False)
    except BadInput as problem:
        return problem
