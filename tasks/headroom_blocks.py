"""What is taught at a stretch of positions, and packed blocks cut back into the documents they were made from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.sparse import Sparse
from logitfuse.storage.shards import Rows, read_batches

VALIDATION = "validation"


class Targets(NamedTuple):
    """What is taught at T positions, and by which source most (its number, -1 for none)."""

    rows: Sparse
    mass_T: NDArray[np.float32]
    winner_T: NDArray[np.int32]


class Blocks:
    """The packed blocks of a shard and split, end to end, in which documents are found in their order."""

    def __init__(self, file: tuple[Path, list[str]], split: str = VALIDATION) -> None:
        parts: dict[str, list[NDArray]] = defaultdict(list)
        path, columns = file
        for batch in read_batches(path, columns):
            view = Rows(batch)
            for row in range(len(view)):
                for column in columns[1:] if view.value("split", row) == split else ():
                    parts[column].append(view.values(column, row))
        self._flat = {name: np.concatenate(found) for name, found in parts.items()}
        self._rows = Sparse.from_counts(*(self._flat[c] for c in ("counts", "ids", "logprobs"))) if parts else None
        self._at = 0

    def find(self, inputs: list[NDArray[np.int32]]) -> int | None:
        """Return the position at which the next document begins, None if packing left it out."""
        document = np.concatenate(inputs)
        stop = self._at + len(document)
        if self._rows is None or not np.array_equal(self._flat["inputs"][self._at : stop], document):
            return None
        start, self._at = self._at, stop
        return start

    def take(self, start: int, stop: int) -> Targets:
        """Return positions start to stop, of a document that was found."""
        assert self._rows is not None
        return Targets(self._rows.take(start, stop), self._flat["mass"][start:stop], self._flat["winner"][start:stop])
