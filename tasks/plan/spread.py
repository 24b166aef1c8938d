"""Blocks from all over a corpus's files as a sample of it, within the limits that its recipe sets."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import SplitName, document_of
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.plan.blocks import PartSample
from logitfuse.tasks.plan.sample import Stratum, Text, as_text

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run


def rows_of(samples: list[PartSample]) -> float:
    """Estimate how many rows the sampled parts have."""
    found = 0.0
    for sample in samples:
        size = sum(block.size for block in sample.blocks)
        found += sum(len(block.rows) for block in sample.blocks) * sample.total / size if size else 0.0
    return found


def spread(run: Run, settings: CorpusSettings, split: SplitName | None, samples: list[PartSample]) -> Stratum:
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
            blocks.append([as_text(run, one, settings) for one in wanted])
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
