"""How many rows a data set of the `datasets` library says it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from logitfuse.tasks.corpus.documents import SplitName
from logitfuse.tasks.corpus.hub import is_saved_dataset
from logitfuse.tasks.corpus.settings import CorpusSettings


def known_rows(settings: CorpusSettings, split: SplitName | None) -> int | None:
    """Return the rows of a split of a saved or a hub data set, None where nobody says; reads no row."""
    import datasets

    name = getattr(settings, f"{split or 'train'}_split") or "train"
    try:
        if is_saved_dataset(Path(settings.source)):
            saved: Any = datasets.load_from_disk(settings.source)
            return len(saved[name]) if isinstance(saved, datasets.DatasetDict) else len(saved)
        builder = datasets.load_dataset_builder(settings.source, settings.subset, revision=settings.revision)
        found = (builder.info.splits or {}).get(name)
        return found.num_examples if found else None
    except Exception:  # of many kinds; what is wrong with a data set is told by the check of the corpus
        return None
