"""What is taught at a stretch of positions, and packed blocks cut back into the documents they were made from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.sparse import Sparse
from logitfuse.storage.shards import Rows, read_batches

TRAIN = "train"


class Targets(NamedTuple):
    """What is taught at T positions, and by which source most (its number, -1 for none)."""

    rows: Sparse
    mass_T: NDArray[np.float32]
    winner_T: NDArray[np.int32]


class Blocks:
    """The held-out packed blocks of a shard, end to end by split, in which documents are found in their order."""

    def __init__(self, file: tuple[Path, list[str]]) -> None:
        parts: dict[str, dict[str, list[NDArray]]] = defaultdict(lambda: defaultdict(list))
        path, columns = file
        for batch in read_batches(path, columns):
            view = Rows(batch)
            for row in range(len(view)):
                split = view.value("split", row)
                for column in columns[1:] if split != TRAIN else ():
                    parts[split][column].append(view.values(column, row))
        self._flat = {split: {name: np.concatenate(p) for name, p in found.items()} for split, found in parts.items()}
        self._rows = {
            split: Sparse.from_counts(*(found[column] for column in ("counts", "ids", "logprobs")))
            for split, found in self._flat.items()
        }
        self._at = dict.fromkeys(self._flat, 0)

    def find(self, split: str, inputs: list[NDArray[np.int32]]) -> int | None:
        """Return the position at which the next document begins, None if packing left it out."""
        document = np.concatenate(inputs)
        start = self._at.get(split, 0)
        stop = start + len(document)
        if split not in self._flat or not np.array_equal(self._flat[split]["inputs"][start:stop], document):
            return None
        self._at[split] = stop
        return start

    def take(self, split: str, start: int, stop: int) -> Targets:
        """Return positions start to stop."""
        found = self._flat[split]
        return Targets(self._rows[split].take(start, stop), found["mass"][start:stop], found["winner"][start:stop])
