"""Chunks as a source reads them, one after another or in batches.

A plan of batches depends on the lengths of the passages and the settings alone: it is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from logitfuse.kernels.positions import inputs_and_labels
from logitfuse.storage.errors import ShardCorrupt
from logitfuse.storage.shards import Rows, read_batches

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source

COLUMNS = ["doc_id", "chunk", "text_hash", "last", "ids"]


@dataclass(frozen=True)
class Passage:
    """One chunk as the source reads it: `inputs` [P] and what follows, `labels` [P]; cut to the source's context."""

    identity: dict[str, Any]
    first: int
    inputs: np.ndarray
    labels: np.ndarray
    beyond_context: int

    def __len__(self) -> int:
        return len(self.inputs)


class Batch(NamedTuple):
    """What one forward pass reads: passages, and each one's number in the shard."""

    numbers: list[int]
    passages: list[Passage]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.passages))

    def halves(self) -> tuple[Batch, Batch]:
        """Cut in two of about as many passages."""
        middle = len(self.numbers) // 2
        return (
            Batch(self.numbers[:middle], self.passages[:middle]),
            Batch(self.numbers[middle:], self.passages[middle:]),
        )


def require_own_ids(encoded: Record, source: Source) -> None:
    """Raise `ShardCorrupt` unless a shard's ids are of the source's own tokenizer: any others would be other text."""
    if encoded.fingerprints.get("tokenizer") != source.vocabulary.fingerprint:
        raise ShardCorrupt(f"{encoded.label}: its ids are not of the tokenizer of {source.label!r}. {encoded.redo}")


def read_passages(
    encoded: Path, source: Source, *, max_length: int | None = None, past_end: bool = False
) -> Iterator[Passage]:
    """Yield every chunk of a shard with the source's start and end tokens, cut to its context.

    Raises `ShardCorrupt` for an id that its tokenizer does not have.
    """
    longest = min(source.context, max_length or source.context)
    first = 0 if source.start_id is not None else 1
    for batch in read_batches(encoded, COLUMNS):
        rows = Rows(batch)
        for row in range(len(rows)):
            end = source.end_id if rows.value("last", row) else None
            ids = rows.values("ids", row)
            if len(ids) and not 0 <= ids.min() <= ids.max() < source.vocabulary.size:
                raise ShardCorrupt(
                    f"{encoded}: it has an id that the tokenizer of {source.label!r} has not. Redo stage encode."
                )
            inputs, labels = inputs_and_labels(ids, start=source.start_id, end=end, past_end=past_end)
            kept = min(len(inputs), longest)
            yield Passage(rows.identity(row), first, inputs[:kept], labels[:kept], len(inputs) - kept)


def packed_batches(passages: Iterable[Passage], tokens_per_batch: int) -> Iterator[Batch]:
    """Yield runs of passages, in order, that have at most so many tokens together; a longer one comes alone."""
    batch, tokens = Batch([], []), 0
    for number, passage in enumerate(passages):
        if batch.numbers and tokens + len(passage) > tokens_per_batch:
            yield batch
            batch, tokens = Batch([], []), 0
        batch.numbers.append(number)
        batch.passages.append(passage)
        tokens += len(passage)
    if batch.numbers:
        yield batch


def sorted_batches(passages: Iterable[Passage], tokens_per_batch: int, window: int) -> Iterator[Batch]:
    """Yield passages of like length, padded at most to so many tokens together, from windows of so many passages."""
    stream, base = iter(passages), 0
    while found := list(islice(stream, window)):
        for batch in plan_batches([len(passage) for passage in found], tokens_per_batch):
            yield Batch([base + i for i in batch], [found[i] for i in batch])
        empty = [i for i, passage in enumerate(found) if not len(passage)]
        if empty:
            yield Batch([base + i for i in empty], [found[i] for i in empty])
        base += len(found)


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group passages by length so that each padded batch stays within the budget; deterministic.

    Empty passages are in no batch; one that is longer than the budget is a batch of its own.
    """
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens_per_batch:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
