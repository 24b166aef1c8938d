"""A small fixed sample of the validation split, in the target's ids, for looking at a model while it trains."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels
from logitfuse.storage.atomic import replacing
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.models.vocabulary import encode_texts

SPLIT = "validation"  # test stays locked for the last comparison
MOST_SHARDS = 16
BYTES_PER_TOKEN = 4  # a guess; it only decides how many texts are tokenised


class SampleRow(NamedTuple):
    """One text, or its beginning: what the model reads, what follows, and the bytes that the labels are."""

    domain: str
    inputs: NDArray[np.int32]
    labels: NDArray[np.int32]
    bytes: int


def spread_out(count: int) -> list[int]:
    """Return at most `MOST_SHARDS` shards of a run, evenly over all: a corpus may be sorted by domain."""
    return sorted({round(at * (count - 1) / max(1, MOST_SHARDS - 1)) for at in range(MOST_SHARDS)}) if count else []


def write_sample(shards: Sequence[Path], target: Source, path: Path, tokens: int, longest: int) -> int:
    """Write about `tokens` tokens of held-out text, domains alike, none longer than `longest`; return how many.

    The same prepared shards and tokenizer give the same sample: texts are taken in the order of their hashes.
    """
    by_domain = _texts(shards)
    rows: list[SampleRow] = []
    for domain in sorted(by_domain):
        quota = tokens // len(by_domain)
        texts = _first_texts(by_domain[domain], quota * BYTES_PER_TOKEN)
        rows += _within(_rows(texts, domain, target, min(longest, target.context)), quota)
    content = [row._asdict() | {"inputs": row.inputs.tolist(), "labels": row.labels.tolist()} for row in rows]
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(content))
    return sum(len(row.labels) for row in rows)


def read_sample(path: Path) -> list[SampleRow]:
    """Return the rows of a sample."""
    return [
        SampleRow(row["domain"], np.array(row["inputs"], np.int32), np.array(row["labels"], np.int32), row["bytes"])
        for row in json.loads(path.read_text())
    ]


def _texts(shards: Sequence[Path]) -> dict[str, list[tuple[bytes, str]]]:
    """Return (hash, text) of the held-out chunks by domain; the text of row groups without any is not read."""
    found: dict[str, list[tuple[bytes, str]]] = defaultdict(list)
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for group in range(file.num_row_groups):
                held_out = pc.equal(file.read_row_group(group, columns=["split"])["split"], SPLIT)
                if not pc.any(held_out).as_py():
                    continue
                table = file.read_row_group(group, columns=["domain", "text_hash", "text"]).filter(held_out)
                for row in table.to_pylist():
                    if row["text"]:
                        found[row["domain"]].append((row["text_hash"], row["text"]))
    return found


def _first_texts(texts: list[tuple[bytes, str]], wanted_bytes: int) -> list[str]:
    """Return texts in the order of their hashes until there are bytes enough."""
    chosen: list[str] = []
    size = 0
    for _, text in sorted(texts):
        if size >= wanted_bytes:
            break
        chosen.append(text)
        size += len(text.encode())
    return chosen


def _rows(texts: list[str], domain: str, target: Source, longest: int) -> list[SampleRow]:
    found = []
    first = 0 if target.start_id is not None else 1
    for ids, ends in encode_texts(target.tokenizer, target.vocabulary, texts):
        inputs, labels = (part[:longest] for part in inputs_and_labels(ids, start=target.start_id, end=None))
        # A cut within a character, or where the tokenizer does not tell, has no byte to count to.
        known = np.flatnonzero(np.asarray(ends[first : first + len(labels)]) >= 0)
        if not len(known):
            continue
        count = int(known[-1]) + 1
        begin = max(int(consumed_bytes(ends, first, 1)[0]), 0)
        found.append(SampleRow(domain, inputs[:count], labels[:count], int(ends[first + count - 1]) - begin))
    return found


def _within(rows: list[SampleRow], quota: int) -> list[SampleRow]:
    """Keep whole rows as long as there is room, the first in any case."""
    kept: list[SampleRow] = []
    left = quota
    for row in rows:
        if not kept or len(row.labels) <= left:
            kept.append(row)
            left -= len(row.labels)
    return kept
