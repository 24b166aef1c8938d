"""What must hold of prepared text and of its tokens."""

# legend: C chunks, N tokens

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from logitfuse.storage.checksums import text_hash
from logitfuse.tasks.verify.chunks import Chunks, Lists, Problem

PREPARE = "prepare"


class PreparedText:
    """Chunks of whole documents, in order, whose hashes are those of their texts."""

    def __init__(self) -> None:
        self._previous: tuple[str, int, int, bool] | None = None  # document, chunk, byte_end, last
        self._documents: set[str] = set()
        self._counted: Counter[str] = Counter(documents=0, bytes=0)

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        sizes_C = text_bytes(chunks.column("text"))
        starts_C, ends_C = chunks.numbers("byte_start"), chunks.numbers("byte_end")
        wrong = [
            text_hash(text) != known
            for text, known in zip(
                chunks.column("text").to_pylist(), chunks.column("text_hash").to_pylist(), strict=True
            )
        ]
        yield chunks.problem("text_hash is not the hash of its text", np.array(wrong, np.bool_))
        yield chunks.problem("byte_end - byte_start is not the length of its text", ends_C - starts_C != sizes_C)
        yield from self._order(chunks, starts_C, ends_C)
        self._counted["bytes"] += int(sizes_C.sum())

    def counted(self) -> dict[str, int]:
        return dict(self._counted)

    def left_over(self) -> str | None:
        if not self._previous or self._previous[3]:
            return None
        return f"document {self._previous[0]!r} does not end in the shard"

    def _order(self, chunks: Chunks, starts_C: NDArray[np.int64], ends_C: NDArray[np.int64]) -> Iterator[Problem]:
        """Check that documents are whole, follow one another and stand once."""
        names, last_C = chunks.column("doc_id").to_pylist(), chunks.numbers("last")
        numbers_C = chunks.numbers("chunk")
        before = self._previous or (None, -1, 0, True)
        opens_C = np.append(before[3], last_C[:-1])
        wanted_C = np.where(opens_C, 0, np.append(before[1], numbers_C[:-1]) + 1)
        begin_C = np.where(opens_C, 0, np.append(before[2], ends_C[:-1]))
        same_C = np.array([name == other for name, other in zip(names, [before[0], *names], strict=False)])
        yield chunks.problem("it does not follow the chunk before it", (numbers_C != wanted_C) | (same_C == opens_C))
        yield chunks.problem("its bytes do not begin where those before it end", starts_C != begin_C)
        fresh = [name for name, opens in zip(names, opens_C, strict=True) if opens]
        twice = {name for name, times in Counter(fresh).items() if times > 1} | (self._documents & set(fresh))
        yield chunks.problem("its document stands twice in the shard", np.array([name in twice for name in names]))
        self._documents |= set(fresh)
        self._counted["documents"] += len(fresh)
        self._previous = (names[-1], int(numbers_C[-1]), int(ends_C[-1]), bool(last_C[-1]))


class EncodedText:
    """Token ids of a vocabulary of `size` ids, and the byte at which each token ends."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counted: Counter[str] = Counter(tokens=0, tokens_without_byte_end=0)

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        ids, ends = chunks.lists("ids"), chunks.lists("ends")
        self._counted["tokens"] += len(ids.values)
        self._counted["tokens_without_byte_end"] += int((ends.values < 0).sum())
        if PREPARE in chunks:
            yield chunks.problem(
                "last is not what prepare says", chunks.numbers("last") != chunks.numbers("last", PREPARE)
            )
        yield chunks.problem(f"ids outside 0 to {self._size - 1}", ids.any(outside(ids.values, self._size)))
        yield chunks.problem("ids and ends differ in length", ids.lengths != ends.lengths)
        yield chunks.problem("ends fall, or are below -1", falling_ends(ends))
        if PREPARE in chunks:
            sizes_C = text_bytes(chunks.column("text", PREPARE))
            beyond_N = ends.values > np.repeat(sizes_C, ends.lengths)
            yield chunks.problem("ends lie beyond the end of the text", ends.any(beyond_N))

    def counted(self) -> dict[str, int]:
        return dict(self._counted)

    def left_over(self) -> str | None:
        return None


class ScoredText:
    """-log p of the held-out tokens, and the byte at which each ends."""

    def __init__(self) -> None:
        self._tokens = 0

    def check(self, chunks: Chunks) -> Iterator[Problem]:
        nats, ends, sizes_C = chunks.lists("nats"), chunks.lists("ends"), chunks.numbers("bytes")
        self._tokens += len(nats.values)
        yield chunks.problem("ends and nats differ in length", nats.lengths != ends.lengths)
        yield chunks.problem("nats are not finite, or below 0", nats.any(~np.isfinite(nats.values) | (nats.values < 0)))
        yield chunks.problem("ends fall, or are below -1", falling_ends(ends))
        yield chunks.problem(
            "ends lie beyond the end of the text", ends.any(ends.values > np.repeat(sizes_C, ends.lengths))
        )
        begin_C = chunks.numbers("begin")
        yield chunks.problem("begin lies outside the text", (begin_C < -1) | (begin_C > sizes_C))
        if PREPARE in chunks:
            yield chunks.problem(
                "bytes is not the length of its text", sizes_C != text_bytes(chunks.column("text", PREPARE))
            )
            yield from same_words(chunks)

    def counted(self) -> dict[str, int]:
        return {"tokens": self._tokens}

    def left_over(self) -> str | None:
        return None


def same_words(chunks: Chunks) -> Iterator[Problem]:
    """Check that domain and split are those of the prepared text."""
    for name in ("domain", "split"):
        same_C = pc.equal(chunks.column(name), chunks.column(name, PREPARE)).to_numpy(zero_copy_only=False)
        yield chunks.problem(f"{name} is not what prepare says", ~same_C)


def text_bytes(texts: pa.Array) -> NDArray[np.int64]:
    """Return the length of each text in bytes of UTF-8, int64 [C]."""
    return pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)


def outside(ids_N: NDArray[np.int32], size: int) -> NDArray[np.bool_]:
    """Say which ids are none of a vocabulary of `size` ids, [N]."""
    return (ids_N < 0) | (ids_N >= size)


def falling_ends(ends: Lists) -> NDArray[np.bool_]:
    """Say in which chunks known byte ends fall, or are neither a byte nor -1 (unknown), [C]."""
    known = ends.values >= 0
    values, chunk_of = ends.values[known], ends.chunk_of[known]
    falls = (np.diff(values) < 0) & (np.diff(chunk_of) == 0)
    found = ends.any(ends.values < -1)
    found[chunk_of[1:][falls]] = True
    return found
