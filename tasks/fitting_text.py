"""The training text that a vocabulary map is fitted on, as both tokenizers cut it.

Only the first shards that hold enough of it are read, going by their records, and no later one: documents that are
appended to a corpus which has enough already change no map. Held-out text is never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.kernels.vocabulary_map import TwiceCut
from logitfuse.storage.shards import rows_together
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

COLUMNS = {"prepare": ["split"], "source": ["ids", "ends"], "target": ["ids", "ends"]}
TRAIN = "train"


def shards_to_fit(run: Run, source: str, tokens: int | None) -> list[dict[str, Record]]:
    """Return the records of the first shards that hold so many training tokens of the target; all if too few do.

    `source`: the source tokenizer's label. Each shard's records are called "prepare", "source" and "target" (encode).
    A shard counts for the share of its documents that are for training. None asks for no text: no shards.
    Raises `ShardMissing` before those shards are encoded.
    """
    found: list[dict[str, Record]] = []
    held = 0.0
    for shard in () if tokens is None else run.shard_numbers:
        if tokens is not None and held >= tokens:
            break
        labels = {"source": source, "target": run.target.tokenizer_label}
        encoded = {name: run.record(Unit("encode", label, shard)) for name, label in labels.items()}
        prepared = run.prepared(shard)
        found.append({"prepare": prepared, **encoded})
        training, documents = prepared.counts["splits"].get(TRAIN, 0), prepared.counts["documents"]
        held += encoded["target"].counts["tokens"] * training / max(documents, 1)
    return found


def training_chunks(shards: Iterable[dict[str, Path]]) -> Iterator[TwiceCut]:
    """Yield the training chunks of shards, given as the paths of their "prepare", "source" and "target"."""
    for paths in shards:
        for views, row in rows_together({name: (path, COLUMNS[name]) for name, path in paths.items()}):
            if views["prepare"].value("split", row) == TRAIN:
                source, target = views["source"], views["target"]
                yield TwiceCut(
                    source.values("ids", row),
                    source.values("ends", row),
                    target.values("ids", row),
                    target.values("ends", row),
                )
