"""A sample of a corpus's rows from all over it: blocks of rows, and how large each is in what the whole is known in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from logitfuse.tasks.corpus.documents import Row
from logitfuse.tasks.corpus.readers import Part
from logitfuse.tasks.corpus.rows import LONGEST_LINE, batch_rows, opened_table, readable
from logitfuse.tasks.corpus.settings import CorpusSettings

BLOCK_BYTES = 65536  # of a file of lines, at most
FEWEST_BLOCKS = 32
BLOCK_ROWS = 32  # of a table
MOST_FILES = 256  # of lines or tables, that are opened
FEWEST_FILES, MOST_TEXTS = 16, 1024  # of text files, a document each


@dataclass(frozen=True)
class Block:
    """Rows that stand together, and their size in the unit of their part's total."""

    rows: list[Row]
    size: float


@dataclass(frozen=True)
class PartSample:
    """Blocks of one part of a corpus, and how large the part is: in bytes of its files, or in rows."""

    part: Part
    blocks: list[Block]
    total: float


def sampled(parts: list[Part], settings: CorpusSettings, most_bytes: float) -> list[PartSample] | None:
    """Return a sample of about so many bytes, spread evenly over files; None where that cannot be had.

    Lines are taken where a block of bytes begins, so a file of any size costs the same. Of compressed files only the
    beginning is read, of text files whole ones; hub data sets cannot be sampled so.
    """
    if not all(part.file for part in parts):
        return None
    chosen = parts if len(parts) <= MOST_FILES else [parts[i * len(parts) // MOST_FILES] for i in range(MOST_FILES)]
    if all(_is_text(part, settings) for part in parts):
        return _text_samples(parts, most_bytes)
    blocks = max(FEWEST_BLOCKS, int(most_bytes / BLOCK_BYTES))
    scale = len(parts) / len(chosen)
    sizes = [_file(part).stat().st_size for part in chosen]
    found, block = [], max(1, min(BLOCK_BYTES, int(most_bytes / blocks)))
    for part, size in zip(chosen, sizes, strict=True):
        wanted = max(2, round(blocks * size / max(sum(sizes), 1)))
        sample = (
            _table(part, settings, wanted) if _file(part).name.endswith(".parquet") else _lines(part, wanted, block)
        )
        found.append(PartSample(part, sample.blocks, sample.total * scale))
    return found


def _file(part: Part) -> Path:
    assert part.file is not None
    return part.file


def _is_text(part: Part, settings: CorpusSettings) -> bool:
    return settings.format == "text" or (settings.format == "auto" and _file(part).name.endswith(".txt"))


def _text_samples(parts: list[Part], most_bytes: float) -> list[PartSample]:
    """Return whole files of each split, evenly over their names, as many as make so many bytes."""
    found = []
    sizes = {id(part): _file(part).stat().st_size for part in parts}
    wanted = most_bytes / max(1.0, sum(sizes.values())) * len(parts)  # files
    for split in dict.fromkeys(part.split for part in parts):
        mine = [part for part in parts if part.split == split]
        count = min(len(mine), max(FEWEST_FILES, min(MOST_TEXTS, round(wanted * len(mine) / len(parts)))))
        chosen = [mine[i * len(mine) // count] for i in range(count)]
        taken = [Block(list(part.rows()), sizes[id(part)]) for part in chosen]
        found.append(PartSample(mine[0], taken, float(sum(sizes[id(part)] for part in mine))))
    return found


def _table(part: Part, settings: CorpusSettings, blocks: int) -> PartSample:
    """Read the first rows of row groups; a table's rows are counted in its footer."""
    with opened_table(_file(part), settings) as (table, columns):
        groups = table.num_row_groups
        chosen = sorted({i * groups // blocks for i in range(blocks)}) if groups else []
        each = max(BLOCK_ROWS, BLOCK_ROWS * blocks // max(1, len(chosen)))
        found = []
        for group in chosen:
            batches = islice(table.iter_batches(each, row_groups=[group], columns=columns), 1)
            rows = list(batch_rows(batches, str(group), str(part.file)))
            cut = [rows[i : i + BLOCK_ROWS] for i in range(0, len(rows), BLOCK_ROWS)]
            found += [Block(some, len(some)) for some in cut]
        return PartSample(part, found, float(table.metadata.num_rows))


def _lines(part: Part, blocks: int, block: int) -> PartSample:
    file, size = _file(part), _file(part).stat().st_size
    if file.name.endswith(".gz"):
        return _compressed(part, blocks, size)
    if size <= blocks * block:
        starts = list(range(0, size, block))
    else:
        starts = [i * (size - block) // max(1, blocks - 1) for i in range(blocks)]
    found = []
    with readable(file), file.open("rb") as stream:
        for start in starts:
            end = min(start + block, size)
            found.append(Block(list(_rows_from(stream, start, end, file)), end - start))
    return PartSample(part, found, float(size))


def _rows_from(stream: Any, start: int, end: int, file: Path) -> Iterator[Row]:
    """Yield the rows of all lines that begin in [start, end): each line belongs to exactly one block."""
    if start:
        stream.seek(start - 1)
        _next_line(stream)  # the rest of a line that began before
    else:
        stream.seek(0)
    while (where := stream.tell()) < end and (line := _next_line(stream)):
        if (row := _row(line, f"{file}, byte {where}")) is not None:
            yield row


def _compressed(part: Part, blocks: int, size: int) -> PartSample:
    """Read the beginning of a compressed file, and how far that has come in its bytes."""
    found: list[Block] = []
    with readable(_file(part)), _file(part).open("rb") as raw, gzip.GzipFile(fileobj=raw) as stream:
        before = 0
        while len(found) < blocks and (lines := list(islice(iter(lambda: _next_line(stream), b""), 256))):
            rows = [row for line in lines if (row := _row(line, str(part.file))) is not None]
            passed, before = raw.tell() - before, raw.tell()
            found.append(Block(rows, passed))
    read = sum(block.size for block in found)
    return PartSample(part, found, float(max(size, read)))


def _next_line(stream: Any) -> bytes:
    """Return the next line; of one that is longer than any that is read, its beginning."""
    line: bytes = stream.readline(LONGEST_LINE)
    rest = line
    while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
        rest = stream.readline(LONGEST_LINE)
    return line


def _row(line: bytes, where: str) -> Row | None:
    """Return the row of a line; None for a blank one, and for one that stage prepare will refuse."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return Row(value, where, where) if isinstance(value, dict) else None
