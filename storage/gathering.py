"""Rows gathered into row groups that 32-bit offsets can count."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from logitfuse.storage.errors import BadInput
from logitfuse.storage.offsets import MOST_VALUES


@contextmanager
def gathering(
    write: Callable[[dict[str, list[Any]]], None], rows: int = 64, most_values: int = MOST_VALUES
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that takes one row; `write` gets the columns of `rows` rows, and of what is left at the end.

    It gets fewer rows where more would hold over `most_values` values in a column, so that 32-bit offsets never wrap;
    one row that does so by itself raises `BadInput`.
    """
    pending: list[Mapping[str, Any]] = []
    held = 0

    def flush() -> None:
        nonlocal held
        if pending:
            write({name: [row[name] for row in pending] for name in pending[0]})
            pending.clear()
            held = 0

    def add(row: Mapping[str, Any]) -> None:
        nonlocal held
        values = max(map(_values, row.values()))
        if values > most_values:
            raise BadInput(f"one chunk has {values:,} values, a column at most {most_values:,}. Lower max_chunk_bytes.")
        if held + values > most_values:
            flush()
        pending.append(row)
        held += values
        if len(pending) == rows:
            flush()

    yield add
    flush()


def _values(cell: Any) -> int:
    """Return how many values, or at most how many bytes of UTF-8, a cell holds."""
    return 4 * len(cell) if isinstance(cell, str) else len(cell) if hasattr(cell, "__len__") else 1
