"""The held-out text of a study: its documents, and how much of it is still found in the training text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.kernels.near_duplicates import build_index, count_shared, shingles
from logitfuse.storage.atomic import write_exclusively
from logitfuse.storage.keys import canonical_json
from logitfuse.storage.shards import Rows, read_batches, verified_path

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

FEW_DOCUMENTS = 30  # fewer of a domain say little about it
COLUMNS = ["doc_id", "chunk", "text", "domain", "split"]


def text_facts(run: Run, folder: Path, splits: Sequence[str]) -> dict[str, Any]:
    """Return documents by split and domain, what was left out, and the overlap of 13-word runs; counted once."""
    shards = hashlib.sha256(canonical_json([[record.key for record in run.shards], list(splits)])).hexdigest()[:20]
    path = folder / f"text.{shards}.json"
    if not path.exists():
        write_exclusively(path, canonical_json(_counted(run, splits)) + b"\n")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def _counted(run: Run, splits: Sequence[str]) -> dict[str, Any]:
    documents_of = {split: Counter(domain for domain, _ in documents(run, split)) for split in ("train", *splits)}
    dropped: Counter[str] = Counter()
    for record in run.shards:
        dropped.update(record.counts["dropped"])
    return {
        "documents": {split: dict(sorted(counts.items())) for split, counts in documents_of.items()},
        "few_documents": [
            f"{domain} ({split}: {documents_of[split][domain]})"
            for split in splits
            for domain in sorted(documents_of[split])
            if documents_of[split][domain] < FEW_DOCUMENTS
        ],
        "dropped": dict(dropped),
        "overlap_13_words": {split: overlap_by_domain(run, split) for split in splits if documents_of[split]},
    }


def overlap_by_domain(run: Run, split: str) -> dict[str, float]:
    """Return by domain the share of 13-word runs of a held-out split that the training text has as well.

    Takes 12 bytes of memory for each word of the training text.
    """
    index = build_index(shingles(text) for _, text in documents(run, "train"))
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for domain, text in documents(run, split):
        shared, runs = count_shared(text, index)
        found[domain][0] += shared
        found[domain][1] += runs
    return {domain: shared / runs if runs else 0.0 for domain, (shared, runs) in sorted(found.items())}


def documents(run: Run, split: str) -> Iterator[tuple[str, bytes]]:
    """Yield domain and whole text of a split's documents."""
    for record in run.shards:
        if record.counts["splits"].get(split):
            yield from _in_shard(verified_path(run.store, record), split)


def _in_shard(path: Path, split: str) -> Iterator[tuple[str, bytes]]:
    parts: dict[str, list[bytes]] = {}
    domains: dict[str, str] = {}
    for batch in read_batches(path, COLUMNS):
        rows = Rows(batch)
        for row in range(len(rows)):
            if rows.value("split", row) == split:
                name = rows.value("doc_id", row)
                parts.setdefault(name, []).append(rows.value("text", row).encode())
                domains[name] = rows.value("domain", row)
    yield from ((domains[name], b"".join(texts)) for name, texts in parts.items())
