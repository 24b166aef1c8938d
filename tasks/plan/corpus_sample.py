"""A sample of a corpus that is not prepared yet: all of a small one, documents from all over a large one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from logitfuse.tasks.corpus.documents import Document, SplitName
from logitfuse.tasks.corpus.files import SPLIT_ORDER
from logitfuse.tasks.corpus.held_out import HeldOutIndex
from logitfuse.tasks.corpus.readers import Part, corpus_parts, located, read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.plan.blocks import PartSample, sampled
from logitfuse.tasks.plan.rows_known import known_rows
from logitfuse.tasks.plan.sample import Sample, Stratum, as_text
from logitfuse.tasks.plan.spread import rows_of, spread

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

READ_BEYOND = 8  # times the text that is tokenised: reading is that much quicker
TOGETHER = 8  # documents of a block, where they come one by one


def corpus_sample(run: Run, most_bytes: int) -> Sample:
    """Read a corpus whole where it is small, else the beginnings of its splits and a sample from all over it."""
    settings = located(run.recipe.corpus)
    parts = corpus_parts(settings)
    if any(part.split == "validation" for part in parts):
        settings = settings.model_copy(update={"held_out_share": 0.0})
    splits = list(dict.fromkeys(part.split for part in parts))
    most_read = READ_BEYOND * most_bytes / len(splits)
    begun = {split: _beginning(settings, split, most_read) for split in splits}
    if all(ended for _, ended in begun.values()):
        documents = [document for found, _ in begun.values() for document in found]
        kept, dropped = _without_repeats(documents, settings)
        return replace(_counted(run, kept, most_bytes), dropped=dropped)
    blocks = sampled(parts, settings, most_bytes)
    found = [_stratum(run, settings, split, begun[split], parts, blocks, most_bytes / len(splits)) for split in splits]
    hows = dict.fromkeys(how for _, how in found)
    return Sample([stratum for stratum, _ in found], False, "; ".join(hows))


def _counted(run: Run, documents: list[Document], most_bytes: float) -> Sample:
    """Return a corpus that was read whole; of a larger one every so many documents are tokenised."""
    texts = [as_text(run, document, None) for document in documents]
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


def _without_repeats(documents: list[Document], settings: CorpusSettings) -> tuple[list[Document], dict[str, int]]:
    """Return the documents that stage prepare keeps, and how many it drops, by the reason."""
    index = HeldOutIndex.build(documents, settings.near_duplicate_overlap)
    verdicts = [index.judge(document) for document in documents]
    kept = [document for document, verdict in zip(documents, verdicts, strict=True) if verdict.keep]
    return kept, dict(Counter(verdict.reason for verdict in verdicts if verdict.reason))


def _stratum(
    run: Run,
    settings: CorpusSettings,
    split: SplitName | None,
    begun: tuple[list[Document], bool],
    parts: list[Part],
    blocks: list[PartSample] | None,
    most_bytes: float,
) -> tuple[Stratum, str]:
    """Return a split's sample and how it was taken."""
    documents, ended = begun
    mine = [part for part in parts if part.split == split]
    if ended:
        return _one_by_one(run, documents, float(len(documents)), most_bytes), f"all of split {split}"
    limit = settings.max_documents if split in (None, "train") else settings.held_out_documents
    samples = [sample for sample in blocks or [] if sample.part in mine]
    rows = rows_of(samples) if samples else known_rows(settings, split)
    if samples and (limit is None or rows is None or rows <= limit):
        return spread(run, settings, split, samples), "a sample from all over the corpus"
    total = min(limit or rows or len(documents), rows or limit or len(documents))
    unknown = "" if limit or rows else "; how long the corpus is is not known, so these are the least"
    how = f"the first {len(documents):,} documents{unknown}"
    return _one_by_one(run, documents, float(total), most_bytes), how


def _one_by_one(run: Run, documents: list[Document], total: float, most_bytes: float) -> Stratum:
    """Put documents that come one after another into blocks of a few, evenly over them where they are too many."""
    step = max(1, math.ceil(sum(len(document.text) for document in documents) / most_bytes))
    texts = [as_text(run, document, None) for document in documents[::step]]
    blocks = [texts[i : i + TOGETHER] for i in range(0, len(texts), TOGETHER)]
    return Stratum(blocks, [float(len(block)) for block in blocks], total)
