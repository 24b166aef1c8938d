"""What stage fuse reads, with `fuse.shuffled` each source's distributions on another document: a control.

A student may gain from soft targets whatever they say, as it does from smoothed labels. To tell that from what the
sources know, their distributions are taken from another document of the same shard and split, position by position.
All else stays: the text, the labels, the target model's own distributions, and how much each source counts.
"""

# legend: D documents, T positions

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from logitfuse.kernels.fusion.distributions import Distributions, joined
from logitfuse.storage.shards import read_batches
from logitfuse.tasks.fuse_documents import Documents, Reading, read_documents

Files = Mapping[str, tuple[Path, Sequence[str]]]


def fused_documents(files: Files, how: Reading, rows: int) -> Iterator[Documents]:
    """Yield a shard's documents as `read_documents` does, with other documents' distributions where `how` says so."""
    if how.shuffled:
        return shuffled_documents(files, how, rows)
    return read_documents(files, how, rows)


def shuffled_documents(files: Files, how: Reading, rows: int) -> Iterator[Documents]:
    """Yield documents with the sources' distributions of the one half a split further on, in a circle.

    Half a split away, so that neighbours of one origin do not teach each other; within the split, so that nothing of
    held-out text is learnt. A longer document has no distributions past the end of the other, and the only document
    of its split has none.
    """
    donors = {split: _donors(files, how, rows, split, count) for split, count in _counts(files, rows).items()}
    for group in read_documents(files, how, rows):
        lengths_D = np.diff(group.position_offsets).tolist()
        firsts = group.documents[:-1].tolist()
        found = [
            [_cut_or_filled(source, length) for source in next(donors[group.splits[first]])]
            for first, length in zip(firsts, lengths_D, strict=True)
        ]
        other = [joined(parts) for parts in zip(*found, strict=True)]
        kept = [own if s == how.own else other[s] for s, own in enumerate(group.sources)]
        yield replace(group, sources=kept)


def _counts(files: Files, rows: int) -> Counter[str]:
    """Count the documents of each split of a shard."""
    documents: dict[str, set[str]] = defaultdict(set)
    for batch in read_batches(files["prepare"][0], ["doc_id", "split"], rows):
        for doc_id, split in zip(batch.column("doc_id").to_pylist(), batch.column("split").to_pylist(), strict=True):
            documents[split].add(doc_id)
    return Counter({split: len(found) for split, found in documents.items()})


def _donors(files: Files, how: Reading, rows: int, split: str, count: int) -> Iterator[list[Distributions]]:
    """Yield the distributions that the documents of a split get, in their order."""
    half = count // 2
    if not half:
        yield [Distributions(np.zeros(1, np.int64), *_no_entries(), np.zeros(0)) for _ in how.labels]
        return
    yield from islice(_documents_of(files, how, rows, split), half, None)
    yield from islice(_documents_of(files, how, rows, split), half)


def _documents_of(files: Files, how: Reading, rows: int, split: str) -> Iterator[list[Distributions]]:
    for group in read_documents(files, how, rows):
        at = group.position_offsets.tolist()
        for d, first in enumerate(group.documents[:-1].tolist()):
            if group.splits[first] == split:
                yield [source.take(at[d], at[d + 1]) for source in group.sources]


def _cut_or_filled(source: Distributions, length: int) -> Distributions:
    if len(source) >= length:
        return source.take(0, length)
    missing = length - len(source)
    nothing = Distributions(np.zeros(missing + 1, np.int64), *_no_entries(), np.zeros(missing))
    return joined([source, nothing])


def _no_entries() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(0, np.int32), np.zeros(0, np.float32)
