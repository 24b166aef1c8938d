"""Stage prepare: the corpus as shards of chunks, cut losslessly by bytes, with a clean held-out part.

Shards hold documents in the corpus's order. Their borders are kept when documents are appended: a standing shard
whose documents are unchanged is kept as it is, also if it was the last, shorter one; what is new forms new shards.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from logitfuse.kernels.chunks import cut
from logitfuse.storage.checksums import text_hash
from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMissing
from logitfuse.storage.keys import canonical_json
from logitfuse.storage.records import Record, from_bytes, to_bytes
from logitfuse.storage.schemas import PREPARE
from logitfuse.storage.settings import changed_settings
from logitfuse.storage.shards import writing_rows
from logitfuse.storage.store import LocalStore
from logitfuse.tasks.corpus.bad_documents import quarantines
from logitfuse.tasks.corpus.documents import Document
from logitfuse.tasks.corpus.fingerprint import corpus_fingerprint
from logitfuse.tasks.corpus.held_out import judged_documents
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.engine import Counts, Outcome, Progress, Work, make_record, perform, read_record, silent
from logitfuse.tasks.published_split import PublishedSplit
from logitfuse.tasks.quarantine import PLACE, Quarantined, quarantine_work

NOT_IN_KEYS = ("source", "format", "revision", "on_bad_document")


@dataclass
class Portion:
    """Documents that will form one shard; `kept` False means dropped as a duplicate, for the reason given."""

    documents: list[tuple[Document, str]] = field(default_factory=list)  # (document, why it was dropped or "")
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, document: Document, dropped: str) -> None:
        self.documents.append((document, dropped))
        identity = [document.doc_id, document.domain, document.split, dropped, text_hash(document.text).hex()]
        self.digest.update(canonical_json(identity))

    @property
    def content(self) -> str:
        return self.digest.hexdigest()


def prepared_shards(settings: CorpusSettings, store: LocalStore, split: PublishedSplit | None = None) -> list[Record]:
    """Return the records of all prepared shards in order; raise `ShardMissing` if prepare must run first."""
    listed = listing_work(settings, split)
    listing = read_record(store, listed.record_path)
    if listing and quarantines(settings) and read_record(store, quarantine_work(listed).record_path) is None:
        listing = None  # what was left out must be known, too
    shards = [read_record(store, path) for path in listing.counts["shards"]] if listing else []
    if listing is None or any(shard is None for shard in shards):
        raise ShardMissing("the corpus is not prepared yet. Run: logitfuse stage prepare RECIPE")
    return [shard for shard in shards if shard is not None]


def prepare_corpus(
    settings: CorpusSettings,
    store: LocalStore,
    split: PublishedSplit | None = None,
    *,
    progress: Progress = silent,
    redo: bool = False,
) -> list[Outcome]:
    """Make all shards of the corpus that are missing; return what became of each.

    Two passes: the held-out documents first, so that training documents which repeat them can be dropped. `split`
    cuts documents as the published code does; its pieces are what counts as documents.
    """
    if not redo:
        try:
            return [Outcome("kept", record) for record in prepared_shards(settings, store, split)]
        except ShardMissing:
            pass
    started = time.time()
    outcomes: list[Outcome] = []
    listing, bad = listing_work(settings, split), Quarantined()
    for shard, portion in enumerate(_portions(settings, store, split, bad)):
        work = _shard_work(settings, shard, portion, split)
        outcomes.append(perform(store, work, redo=redo))
        progress(sum(outcome.record.counts["documents"] for outcome in outcomes), 0)
    if not any(outcome.record.counts["chunks"] for outcome in outcomes):
        raise BadInput(f"corpus {settings.source!r}: it holds no document. Give a corpus with text.{bad.said}")
    _require_unchanged(settings, split, listing)
    counts: Counts = {"shards": [outcome.record.path for outcome in outcomes]}
    if quarantines(settings):
        record = perform(store, quarantine_work(listing, bad), redo=True).record
        counts["quarantined"] = record.counts["quarantined"]
    _publish_listing(listing, store, counts, started)
    return outcomes


def _require_unchanged(settings: CorpusSettings, split: PublishedSplit | None, listing: Work) -> None:
    """Refuse a corpus that was written to while it was read: its shards would be listed as those of other text."""
    if listing_work(settings, split).key != listing.key:
        raise BadInput(
            f"corpus {settings.source!r}: it changed while it was read. Run the same command again once nothing writes "
            "to it; shards whose documents stayed the same are kept."
        )


def listing_path(settings: CorpusSettings, split: PublishedSplit | None = None) -> str:
    """Return the path of the record that lists the corpus's shards."""
    return listing_work(settings, split).record_path


def _key_settings(settings: CorpusSettings) -> CorpusSettings:
    """Leave out where the corpus lies, and what becomes of what no document is made of: the content is in the key."""
    default = CorpusSettings()
    return settings.model_copy(update={name: getattr(default, name) for name in NOT_IN_KEYS})


def listing_work(settings: CorpusSettings, split: PublishedSplit | None) -> Work:
    """The list of the corpus's shards, as a record without files, found by the corpus's fingerprint."""
    return Work(
        stage="corpus",
        place=PLACE,
        name="corpus",
        compute=_never,
        settings=_key_settings(settings),
        fingerprints={
            "corpus": corpus_fingerprint(settings),
            **_split_fingerprints(split),
            **({"bad_documents": "quarantined"} if quarantines(settings) else {}),
        },
    )


def _split_fingerprints(split: PublishedSplit | None) -> dict[str, Any]:
    return {"split": list(split.fingerprints)} if split else {}


def _never(path: Path, progress: Progress) -> Counts:
    raise AssertionError("the list of shards is published, not computed")


def _publish_listing(work: Work, store: LocalStore, counts: Counts, started: float) -> None:
    record = make_record(work, [], counts, started, max(0.0, time.time() - started))
    if not store.create(work.record_path, to_bytes(record)) and not _lists(store, work, counts):
        store.remove(work.record_path)
        store.create(work.record_path, to_bytes(record))


def _lists(store: LocalStore, work: Work, counts: Counts) -> bool:
    """Whether the list that stands is this one; another process made it, and may be reading it by now."""
    try:
        standing = read_record(store, work.record_path)
    except ShardCorrupt:
        return False
    return standing is not None and standing.counts == counts


def _shard_work(settings: CorpusSettings, shard: int, portion: Portion, split: PublishedSplit | None) -> Work:
    def compute(path: Path, progress: Progress) -> Counts:
        return write_portion(portion, None if split else settings.max_chunk_bytes, path)

    return Work(
        stage="prepare",
        place=PLACE,
        name=f"part-{shard:05d}",
        shard=shard,
        compute=compute,
        settings=_key_settings(settings),
        fingerprints={"documents": portion.content, **_split_fingerprints(split)},
    )


def _portions(
    settings: CorpusSettings, store: LocalStore, split: PublishedSplit | None, bad: Quarantined
) -> Iterator[Portion]:
    """Cut the stream of documents into shards, at the borders of standing shards where their content is unchanged.

    With the published split every shard holds documents of one split only: the published code packs each by itself.
    """
    borders = _standing_borders(settings, store)
    open_: dict[str, Portion] = {}
    shard = 0
    for document, dropped in _documents(settings, split, bad):
        name = document.split if split else ""
        portion = open_.setdefault(name, Portion())
        portion.add(document, dropped)
        size = len(portion.documents)
        if size >= settings.documents_per_shard or (shard, size, portion.content) in borders:
            yield open_.pop(name)
            shard += 1
    yield from open_.values()


def _documents(
    settings: CorpusSettings, split: PublishedSplit | None, bad: Quarantined
) -> Iterator[tuple[Document, str]]:
    """Yield documents, or their pieces, each with the reason why it is dropped or an empty text."""
    for document, verdict in judged_documents(settings, bad.note):
        for piece in _pieces(document, split) if split and verdict.keep else [document]:
            yield piece, verdict.reason or ""


def _pieces(document: Document, split: PublishedSplit) -> list[Document]:
    """Return the published split's pieces as documents; one that is not cut keeps its name."""
    texts = split(document.text)
    if len(texts) == 1:
        return [replace(document, text=texts[0])]
    return [replace(document, doc_id=f"{document.doc_id}#{n}", text=text) for n, text in enumerate(texts)]


def _standing_borders(settings: CorpusSettings, store: LocalStore) -> set[tuple[int, int, str]]:
    """Return (shard, documents read, content) of every standing shard made with the same settings."""
    borders = set()
    wanted = changed_settings(_key_settings(settings))
    for path in store.names(PLACE, ".json"):
        if not path.rsplit("/", 1)[-1].startswith("part-"):
            continue
        try:
            record = from_bytes(store.read(path), path)
        except FileNotFoundError:  # an object store's listing may lag behind
            continue
        if record.settings == wanted and record.shard is not None:
            borders.add((record.shard, record.counts["documents_read"], record.fingerprints["documents"]))
    return borders


def write_portion(portion: Portion, max_chunk_bytes: int | None, path: Path) -> Counts:
    """Write the kept documents of one shard, cut into chunks; return what was counted."""
    counts: Counts = {"documents_read": len(portion.documents), "documents": 0, "chunks": 0, "bytes": 0}
    dropped: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    domains: Counter[str] = Counter()
    with writing_rows(path, PREPARE) as add:
        for document, why in portion.documents:
            if why:
                dropped[why] += 1
                continue
            counts["documents"] += 1
            splits[document.split] += 1
            domains[document.domain] += 1
            for row in chunk_rows(document, max_chunk_bytes):
                add(row)
                counts["chunks"] += 1
                counts["bytes"] += row["byte_end"] - row["byte_start"]
    return counts | {"dropped": dict(dropped), "splits": dict(splits), "domains": dict(domains)}


def chunk_rows(document: Document, max_chunk_bytes: int | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of one document; their texts joined give the document back. None: one row, however long."""
    pieces = [document.text] if max_chunk_bytes is None else cut(document.text, max_chunk_bytes)
    start = 0
    for number, text in enumerate(pieces):
        end = start + len(text.encode())
        yield {
            "doc_id": document.doc_id,
            "chunk": number,
            "text_hash": text_hash(text),
            "text": text,
            "byte_start": start,
            "byte_end": end,
            "last": number == len(pieces) - 1,
            "domain": document.domain,
            "split": document.split,
        }
        start = end
