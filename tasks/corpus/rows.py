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

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import Row, require_columns, wanted_columns
from logitfuse.tasks.corpus.settings import CorpusSettings

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BATCH_ROWS = 256
LONGEST_LINE = 256 << 20  # bytes: compressed, a line of any length takes no room, until it is read


def jsonl_rows(file: Path, stem: str, settings: CorpusSettings) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file, compressed or not; blank lines are passed over."""
    offset = number = 0
    with _lines(file) as lines:
        for line_number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), 1):
            where = f"{file}, line {line_number}"
            if len(line) > LONGEST_LINE:
                raise BadInput(
                    f"{where}: it has more than {LONGEST_LINE >> 20} MB, and a line is read as a whole. Is this JSON, "
                    "an object a line? Split the document, or leave it out."
                )
            text = decoded(line, where, offset, first=line_number == 1)
            if text.strip():
                yield Row(_object(text, where), f"{stem}-{number:08d}", where)
                number += 1
            offset += len(line)


def text_rows(file: Path, stem: str, settings: CorpusSettings) -> Iterator[Row]:
    """Yield the one document that a text file is."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error
    yield Row({settings.text_column: decoded(data, str(file))}, stem, str(file))


def parquet_rows(file: Path, stem: str, settings: CorpusSettings) -> Iterator[Row]:
    """Yield the rows of a Parquet file, reading only the columns that are needed."""
    try:
        with pq.ParquetFile(file) as table:
            check_schema(table.schema_arrow, settings, str(file))
            columns = wanted_columns(table.schema_arrow.names, settings)
            yield from batch_rows(table.iter_batches(BATCH_ROWS, columns=columns), stem, str(file))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file} cannot be read as Parquet: {error}. Make or download it again.") from error


def batch_rows(batches: Iterable[pa.RecordBatch | pa.Table], stem: str, where: str) -> Iterator[Row]:
    """Yield the rows of Arrow batches, numbered from 0 across them."""
    number = 0
    for batch in batches:
        columns = {name: _values(batch.column(name), name, where, number) for name in batch.column_names}
        for index in range(batch.num_rows):
            values = {name: column[index] for name, column in columns.items()}
            yield Row(values, f"{stem}-{number:08d}", f"{where}, row {number}")
            number += 1


def check_schema(schema: pa.Schema, settings: CorpusSettings, where: str) -> None:
    """Raise BadInput unless the columns that the settings name are there and the text column holds text."""
    require_columns(schema.names, settings, where)
    kind = schema.field(settings.text_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise BadInput(f"{where}: column '{settings.text_column}' holds {kind}, not text. Set text_column to another.")


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
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            yield stream  # type: ignore[misc]
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
    try:
        return column.to_pylist()
    except UnicodeDecodeError as error:
        for number, value in enumerate(column.cast(pa.binary()).to_pylist(), first_row):
            decoded(value or b"", f"{where}, row {number}, column '{name}'", first=False)
        raise BadInput(f"{where}: column '{name}' is not UTF-8. Make the file again.") from error
