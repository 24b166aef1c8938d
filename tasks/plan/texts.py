"""The documents that a plan looks at: all of a small corpus, a sample of a large one, or stage prepare's shards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from logitfuse.kernels.chunks import cut
from logitfuse.storage.errors import BadInput, ShardMissing
from logitfuse.storage.shards import Rows, read_batches, verified_path
from logitfuse.tasks.corpus.documents import Document, SplitName, document_of
from logitfuse.tasks.corpus.files import SPLIT_ORDER
from logitfuse.tasks.corpus.held_out import HeldOutIndex
from logitfuse.tasks.corpus.readers import Part, corpus_parts, located, read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.plan.blocks import PartSample, sampled
from logitfuse.tasks.plan.rows_known import known_rows
from logitfuse.tasks.training.held_out_sample import spread_out

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

READ_BEYOND = 8  # times the text that is tokenised: reading is that much quicker
TOGETHER = 8  # documents of a block, where they come one by one
COLUMNS = ["doc_id", "text", "domain", "split"]


class Text(NamedTuple):
    """A document and the chunks it is cut into."""

    document: Document
    chunks: list[str]


@dataclass(frozen=True)
class Stratum:
    """Part of a corpus: documents in blocks, each block's size, and the part's size in the same unit."""

    blocks: list[list[Text]]
    sizes: list[float]
    total: float


@dataclass(frozen=True)
class Sample:
    """What was read of a corpus; `how` says in words what it stands for."""

    strata: list[Stratum]
    whole: bool
    how: str
    known: dict[str, float] = field(default_factory=dict)  # counted on all of it, where only some is in the strata

    @property
    def texts(self) -> list[Text]:
        return [text for stratum in self.strata for block in stratum.blocks for text in block]


def read_sample(run: Run, most_bytes: int) -> Sample:
    """Read about so many bytes of a run's text: of its prepared shards if they are there, else of the corpus."""
    try:
        return _prepared(run, most_bytes)
    except ShardMissing:
        return _corpus(run, most_bytes)


def _prepared(run: Run, most_bytes: int) -> Sample:
    """Read prepared shards, spread over all of them, up to an equal share of each; a block is a document."""
    total = sum(record.counts["bytes"] for record in run.shards)
    whole = total <= most_bytes
    chosen = list(run.shard_numbers) if whole else spread_out(len(run.shards))
    texts = [text for shard in chosen for text in _up_to(_shard_texts(run, shard), most_bytes / len(chosen), whole)]
    sizes = [float(sum(len(chunk.encode()) for chunk in text.chunks)) for text in texts]
    how = "stage prepare's shards" + ("" if whole else f", {len(texts):,} documents of them")
    return Sample([Stratum([[text] for text in texts], sizes, float(total))], whole, how)


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


def _corpus(run: Run, most_bytes: int) -> Sample:
    settings = located(run.recipe.corpus)
    parts = corpus_parts(settings)
    if any(part.split == "validation" for part in parts):
        settings = settings.model_copy(update={"held_out_share": 0.0})
    splits = list(dict.fromkeys(part.split for part in parts))
    most_read = READ_BEYOND * most_bytes / len(splits)
    begun = {split: _beginning(settings, split, most_read) for split in splits}
    if all(ended for _, ended in begun.values()):
        documents = [document for found, _ in begun.values() for document in found]
        return _counted(run, _without_repeats(documents, settings), most_bytes)
    spread = sampled(parts, settings, most_bytes)
    found = [_stratum(run, settings, split, begun[split], parts, spread, most_bytes / len(splits)) for split in splits]
    hows = dict.fromkeys(how for _, how in found)
    return Sample([stratum for stratum, _ in found], False, "; ".join(hows))


def _counted(run: Run, documents: list[Document], most_bytes: float) -> Sample:
    """Return a corpus that was read whole; of a larger one every so many documents are tokenised."""
    texts = [_text(run, document, None) for document in documents]
    sizes = [float(len(document.text.encode())) for document in documents]
    step = max(1, math.ceil(sum(sizes) / most_bytes))
    stratum = Stratum([[text] for text in texts[::step]], sizes[::step], sum(sizes))
    if step == 1:
        return Sample([stratum], True, "the whole corpus")
    known = {"documents": float(len(texts)), "chunks": float(sum(len(text.chunks) for text in texts))}
    known["bytes"] = sum(sizes)
    splits = Counter(document.split for document in documents)
    known |= {f"documents/{split}": float(number) for split, number in splits.items()}
    return Sample([stratum], False, f"one in {step} documents of a corpus that was read whole", known)


def _beginning(settings: CorpusSettings, split: SplitName | None, most_bytes: float) -> tuple[list[Document], bool]:
    """Read a split's first documents; return them and whether there are no more."""
    found: list[Document] = []
    read = 0
    for document in read_documents(settings, SPLIT_ORDER if split is None else [split]):
        if read >= most_bytes:
            return found, False
        found.append(document)
        read += len(document.text.encode())
    return found, True


def _without_repeats(documents: list[Document], settings: CorpusSettings) -> list[Document]:
    index = HeldOutIndex.build(documents, settings.near_duplicate_overlap)
    return [document for document in documents if index.judge(document).keep]


def _stratum(
    run: Run,
    settings: CorpusSettings,
    split: SplitName | None,
    begun: tuple[list[Document], bool],
    parts: list[Part],
    spread: list[PartSample] | None,
    most_bytes: float,
) -> tuple[Stratum, str]:
    """Return a split's sample and how it was taken."""
    documents, ended = begun
    mine = [part for part in parts if part.split == split]
    if ended:
        return _one_by_one(run, documents, float(len(documents)), most_bytes), f"all of split {split}"
    limit = settings.max_documents if split in (None, "train") else settings.held_out_documents
    samples = [sample for sample in spread or [] if sample.part in mine]
    rows = _rows(samples) if samples else known_rows(settings, split)
    if samples and (limit is None or rows is None or rows <= limit):
        return _spread(run, settings, split, samples), "a sample from all over the corpus"
    total = min(limit or rows or len(documents), rows or limit or len(documents))
    unknown = "" if limit or rows else "; how long the corpus is is not known, so these are the least"
    how = f"the first {len(documents):,} documents{unknown}"
    return _one_by_one(run, documents, float(total), most_bytes), how


def _rows(samples: list[PartSample]) -> float:
    """Estimate how many rows the sampled parts have."""
    found = 0.0
    for sample in samples:
        size = sum(block.size for block in sample.blocks)
        found += sum(len(block.rows) for block in sample.blocks) * sample.total / size if size else 0.0
    return found


def _spread(run: Run, settings: CorpusSettings, split: SplitName | None, samples: list[PartSample]) -> Stratum:
    """Make one stratum of the files' blocks; sizes of all are in the same unit, bytes or rows."""
    blocks, sizes = [], []
    for sample in samples:
        for block in sample.blocks:
            documents = []
            for row in block.rows:
                try:
                    documents.append(document_of(row, split, settings))
                except BadInput:  # stage prepare says which row it is
                    continue
            wanted = [one for one in documents if not settings.domains or one.domain in settings.domains]
            blocks.append([_text(run, one, settings) for one in wanted])
            sizes.append(block.size)
    return Stratum(_capped(blocks, sizes, samples, settings), sizes, sum(sample.total for sample in samples))


def _capped(
    blocks: list[list[Text]], sizes: list[float], samples: list[PartSample], settings: CorpusSettings
) -> list[list[Text]]:
    """Leave out documents beyond what is wanted of a domain or a held-out split, evenly over the sample."""
    scale = sum(sample.total for sample in samples) / max(sum(sizes), 1.0)
    groups = Counter(_group(text, settings) for block in blocks for text in block)
    limits = {False: settings.documents_per_domain, True: settings.held_out_documents}
    share = {g: min(1.0, (limits[g[0]] or n * scale) / (n * scale)) for g, n in groups.items()}
    taken: Counter[tuple[bool, str]] = Counter()
    found = []
    for block in blocks:
        kept = []
        for text in block:
            group = _group(text, settings)
            before, taken[group] = taken[group], taken[group] + 1
            if int(taken[group] * share[group]) > int(before * share[group]) or share[group] == 1.0:
                kept.append(text)
        found.append(kept)
    return found


def _group(text: Text, settings: CorpusSettings) -> tuple[bool, str]:
    """Return what a limit counts together: a held-out split, or a domain of the training text."""
    held_out = text.document.split != "train"
    return held_out, text.document.split if held_out else text.document.domain


def _one_by_one(run: Run, documents: list[Document], total: float, most_bytes: float) -> Stratum:
    """Put documents that come one after another into blocks of a few, evenly over them where they are too many."""
    step = max(1, math.ceil(sum(len(document.text) for document in documents) / most_bytes))
    texts = [_text(run, document, None) for document in documents[::step]]
    blocks = [texts[i : i + TOGETHER] for i in range(0, len(texts), TOGETHER)]
    return Stratum(blocks, [float(len(block)) for block in blocks], total)


def _text(run: Run, document: Document, settings: CorpusSettings | None) -> Text:
    """Cut a document as stage prepare will; `settings` of one that its reader has not shortened yet."""
    corpus = run.recipe.corpus
    if settings is not None and settings.max_document_bytes is not None:
        most = settings.max_document_bytes
        document = replace(document, text=cut(document.text[: most + 1], most)[0])
    if run.published_split:
        return Text(document, run.published_split(document.text))
    return Text(document, cut(document.text, corpus.max_chunk_bytes))
