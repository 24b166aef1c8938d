"""Fused shards as training opens them: only what is one, undamaged, and still what it was when training began.

Shards are read for weeks after they were opened. What was found then, each row group's documents, chunks, text hashes,
lengths and stored sizes, is held as a digest and must be found again whenever the row group is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from logitfuse.storage.arrow_errors import reading_arrow
from logitfuse.storage.errors import ShardCorrupt, ShardMismatch, ShardMissing
from logitfuse.storage.schemas import FUSE, StageSchema
from logitfuse.storage.shards import IDENTITY_COLUMNS, read_together

PER_POSITION = ("labels", "counts", "mass")
PER_ENTRY = ("ids", "logprobs")
INDEXED = [*IDENTITY_COLUMNS, "split", "inputs"]
COLUMNS = [*INDEXED, *PER_POSITION, *PER_ENTRY, "scores"]


def check_texts(prepared: Path, fused: Path) -> None:
    """Hold a fused shard's rows against the texts it was made from, by document, chunk and text hash.

    Raises `ShardMismatch`. Packed blocks are rows of their own and cannot be compared so; `logitfuse verify` packs
    their documents again.
    """
    for _ in read_together({"prepare": (prepared, []), "fuse": (fused, [])}, rows=1024):
        pass


@contextmanager
def opened(path: Path, schema: StageSchema = FUSE, columns: Sequence[str] = tuple(COLUMNS)) -> Iterator[pq.ParquetFile]:
    """Open a shard of a stage, by default a fused one, of which these columns are to be read.

    What cannot be read, a page that fails its checksum among it, is a `ShardCorrupt`; one that is gone `ShardMissing`.
    """
    advice = f"Redo stage {schema.stage!r} for it."
    if not path.exists():
        raise ShardMissing(f"{path}: it went away while it was used. {advice}")
    with (
        reading_arrow(lambda said: ShardCorrupt(f"{path}: it cannot be read ({said}). {advice}")),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        _check_schema(file, path, schema, columns)
        yield file


def _check_schema(file: pq.ParquetFile, path: Path, schema: StageSchema, columns: Sequence[str]) -> None:
    said = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    stage, version = said.get("logitfuse.stage", schema.stage), said.get("logitfuse.version", str(schema.version))
    if (stage, version) != (schema.stage, str(schema.version)):
        raise ShardMismatch(
            f"{path}: it says it is a shard of stage {stage!r}, version {version}; training reads version "
            f"{schema.version} of stage {schema.stage!r}. Redo stage {schema.stage!r}."
        )
    for name in columns:
        wanted, there = schema.arrow.field(name).type, name in file.schema_arrow.names
        if not there or file.schema_arrow.field(name).type != wanted:
            found = file.schema_arrow.field(name).type if there else "missing"
            raise ShardMismatch(
                f"{path}: column {name!r} is {found}, not {wanted}: no shard of stage {schema.stage!r}."
            )


def digest(file: pq.ParquetFile, group: int, table: pa.Table) -> bytes:
    """Return 16 bytes over a row group's documents, chunks, text hashes and lengths, and its columns' stored sizes."""
    stored = file.metadata.row_group(group)
    sizes = [stored.column(i).total_compressed_size for i in range(stored.num_columns)]
    found = hashlib.blake2b(repr(sizes).encode(), digest_size=16)
    for name in IDENTITY_COLUMNS:
        found.update(repr(table[name].to_pylist()).encode())
    found.update(pc.list_value_length(table["inputs"]).to_numpy().tobytes())
    return found.digest()
