"""The documents that a plan looks at: all of a small corpus, a sample of a large one, or stage prepare's shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from logitfuse.storage.errors import ShardMissing
from logitfuse.storage.shards import Rows, read_batches, verified_path
from logitfuse.tasks.corpus.documents import Document
from logitfuse.tasks.plan.corpus_sample import corpus_sample
from logitfuse.tasks.plan.sample import Sample, Stratum, Text
from logitfuse.tasks.training.held_out_sample import spread_out

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

COLUMNS = ["doc_id", "text", "domain", "split"]


def read_sample(run: Run, most_bytes: int) -> Sample:
    """Read about so many bytes of a run's text: of its prepared shards if they are there, else of the corpus."""
    try:
        return _prepared(run, most_bytes)
    except ShardMissing:
        return corpus_sample(run, most_bytes)


def _prepared(run: Run, most_bytes: int) -> Sample:
    """Read prepared shards, spread over all of them, up to an equal share of each; a block is a document."""
    total = sum(record.counts["bytes"] for record in run.shards)
    whole = total <= most_bytes
    chosen = list(run.shard_numbers) if whole else spread_out(len(run.shards))
    texts = [text for shard in chosen for text in _up_to(_shard_texts(run, shard), most_bytes / len(chosen), whole)]
    sizes = [float(sum(len(chunk.encode()) for chunk in text.chunks)) for text in texts]
    how = "stage prepare's shards" + ("" if whole else f", {len(texts):,} documents of them")
    stratum = Stratum([[text] for text in texts], sizes, float(total))
    return Sample([stratum], whole, how, dropped=dropped_documents(run.shards))


def dropped_documents(prepared: Iterable[Record]) -> dict[str, int]:
    """Return how many documents stage prepare dropped because they repeat held-out text, by the reason."""
    found = Counter[str]()
    for record in prepared:
        found.update(record.counts["dropped"])
    return dict(found)


def _shard_texts(run: Run, shard: int) -> Iterator[Text]:
    def rows() -> Iterator[tuple[Rows, int]]:
        for batch in read_batches(verified_path(run.store, run.prepared(shard)), COLUMNS):
            view = Rows(batch)
            yield from ((view, row) for row in range(len(view)))

    for doc_id, chunks in groupby(rows(), key=lambda at: at[0].value("doc_id", at[1])):
        parts = [{name: view.value(name, row) for name in COLUMNS} for view, row in chunks]
        texts = [part["text"] for part in parts]
        yield Text(Document(doc_id, "".join(texts), parts[0]["domain"], parts[0]["split"]), texts)


def _up_to(texts: Iterable[Text], most_bytes: float, whole: bool) -> Iterator[Text]:
    read = 0
    for text in texts:
        if read >= most_bytes and not whole:
            return
        read += len(text.document.text.encode())
        yield text
