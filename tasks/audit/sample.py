"""Which captured chunks are looked at again: spread over shards and domains, the same ones for the same seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import Rows, read_batches, read_together
from logitfuse.tasks.audit.rounding import Rounding
from logitfuse.tasks.verify.chunks import Chunks
from logitfuse.tasks.verify.reader import Reader

ALWAYS = ("doc_id", "chunk", "text_hash")
STORED = [name for name in CAPTURE.arrow.names if name not in ALWAYS]
Choice = tuple[str, int]  # a chunk's doc_id and number


@dataclass(frozen=True)
class Sampled:
    """One captured chunk: what the model reads and what follows, int32 [P] each, and what the store holds of it."""

    doc_id: str
    chunk: int
    domain: str
    shard: int
    first: int  # the first position with a distribution: 0 after a start token
    inputs: NDArray[np.int32]
    labels: NDArray[np.int32]
    bytes: int  # of text that the labels cover
    rounding: Rounding
    stored: dict[str, NDArray[Any]]  # the columns of stage capture


@dataclass(frozen=True)
class ShardFiles:
    """Where one shard's text, tokens and captured predictions lie; their checksums are verified already."""

    shard: int
    prepared: Path
    encoded: Path
    captured: Path
    rounding: Rounding  # of the captured one's codec


def spread(shards: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the shards, evenly spaced, the first and the last among them."""
    if most >= len(shards):
        return list(shards)
    return [shards[i] for i in np.linspace(0, len(shards) - 1, most).round().astype(int)]


def shares(documents: int, shards: int) -> list[int]:
    """Return how many of the documents each shard gives; they differ by at most one."""
    return [documents * (i + 1) // shards - documents * i // shards for i in range(shards)]


def choose(prepared: Path, documents: int, taken: Counter[str], seed: int) -> list[Choice]:
    """Choose a chunk of each of some documents of a shard, the domains least `taken` first; count them there.

    Memory grows with the shard's documents, not with their text.
    """
    best: dict[str, tuple[int, int, str]] = {}  # doc_id → (lot, chunk, domain)
    for batch in read_batches(prepared, ["doc_id", "chunk", "byte_start", "byte_end", "domain"]):
        for row in batch.to_pylist():
            if row["byte_end"] > row["byte_start"]:  # the chunk of an empty document has no position
                lot = (_lot(seed, row["doc_id"], row["chunk"]), row["chunk"], row["domain"])
                best[row["doc_id"]] = min(lot, best.get(row["doc_id"], lot))
    waiting: dict[str, list[tuple[int, str]]] = {}
    for doc_id, (number, _, domain) in best.items():
        waiting.setdefault(domain, []).append((number, doc_id))
    for lots in waiting.values():
        lots.sort(reverse=True)
    chosen: list[Choice] = []
    while waiting and len(chosen) < documents:
        domain = min(waiting, key=lambda name: (taken[name], name))
        _, doc_id = waiting[domain].pop()
        chosen.append((doc_id, best[doc_id][1]))
        taken[domain] += 1
        if not waiting[domain]:
            del waiting[domain]
    return chosen


def read_sample(files: ShardFiles, reader: Reader, chosen: Sequence[Choice]) -> Iterator[Sampled]:
    """Yield the chosen chunks that have a position, in the shard's order; one batch is in memory at a time."""
    wanted = set(chosen)
    together = {
        "prepare": (files.prepared, ["domain"]),
        "encode": (files.encoded, ["last", "ids", "ends"]),
        "capture": (files.captured, STORED),
    }
    for batches in read_together(together):
        found = Rows(batches["prepare"])
        rows = [row for row in range(len(found)) if (found.value("doc_id", row), found.value("chunk", row)) in wanted]
        if not rows:
            continue
        inputs, labels = reader.read(Chunks(batches, np.arange(len(found))))
        encoded, captured = Rows(batches["encode"]), Rows(batches["capture"])
        for row in rows:
            place = slice(int(inputs.offsets[row]), int(inputs.offsets[row + 1]))
            if place.start < place.stop:
                yield Sampled(
                    found.value("doc_id", row),
                    found.value("chunk", row),
                    found.value("domain", row),
                    files.shard,
                    captured.value("first", row),
                    inputs.values[place],
                    labels.values[place],
                    covered(encoded.values("ends", row), labels.values[place], reader.start is not None),
                    files.rounding,
                    _stored(captured, row),
                )


def covered(ends_L: NDArray[np.int32], labels_P: NDArray[np.int32], started: bool) -> int:
    """Return the bytes of text that some labels are: all but the first token's where there is no start token.

    Tokens that end within a character have no known end; they count with the next one that has.
    """
    first = 0 if started else 1
    last = min(len(ends_L), first + int((labels_P != NO_LABEL).sum()))
    begin = int(ends_L[:first].max(initial=0))
    return max(0, int(ends_L[:last].max(initial=0)) - begin)


def _stored(captured: Rows, row: int) -> dict[str, NDArray[Any]]:
    return {name: np.array(captured.values(name, row)) for name in STORED if name != "first"}


def _lot(seed: int, doc_id: str, chunk: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{doc_id}\0{chunk}".encode(), digest_size=8).digest(), "big")
