"""What an alignment of tokens asks of two vocabularies, worked out once per pair, not per document."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Spelling:
    """A vocabulary as spelled: `pieces[id]`, None for holes, and what it writes for a space ("" for nothing)."""

    pieces: Sequence[str | None]
    marker: str

    @cached_property
    def bare(self) -> list[str]:
        """The pieces without the marker."""
        return [(piece or "").replace(self.marker, "") for piece in self.pieces]


@dataclass(frozen=True, eq=False)
class VocabularyPair:
    """A source and a target vocabulary, and the map between them: rows of target ids by source id, with weights.

    `marks_first`: the source's tokenizer leaves out the space before a text where the target's writes it, so the
    published code compares a text's first tokens as if the source had written it too.
    """

    source: Spelling
    target: Spelling
    map_offsets: NDArray[np.int64]  # [S+1]
    map_ids: NDArray[np.int32]
    map_weights: NDArray[np.float32]
    marks_first: bool = False

    @cached_property
    def respelled(self) -> list[str]:
        """The source's pieces with the target's marker for its own; "" for holes."""
        own, wanted = self.source.marker, self.target.marker
        return [(piece or "").replace(own, wanted) if own else piece or "" for piece in self.source.pieces]

    @cached_property
    def equal(self) -> NDArray[np.int32]:
        """The target id that is spelled like each source id, int32 [S], -1 for none."""
        return self._spelled(self.respelled)

    @cached_property
    def mapped(self) -> NDArray[np.int32]:
        """The target id the map gives each source id the most weight on, lowest id on ties, int32 [S], -1 for none."""
        found = np.full(len(self.source.pieces), -1, np.int32)
        rows = np.repeat(np.arange(len(self.map_offsets) - 1), np.diff(self.map_offsets))
        order = np.lexsort((self.map_ids, -self.map_weights, rows))[::-1]
        inside = rows[order] < len(found)
        found[rows[order][inside]] = self.map_ids[order][inside]  # the best is written last
        return found

    @cached_property
    def marked_equal(self) -> NDArray[np.int32]:
        """As `equal`, with the target's marker before the source's piece."""
        return self._spelled(self._marked)

    @cached_property
    def marked_mapped(self) -> NDArray[np.int32]:
        """As `mapped`, of the source id that is spelled like this one with a marker before it, -1 where none is."""
        id_of: dict[str, int] = {}
        for token, piece in enumerate(self.respelled):
            if piece:
                id_of.setdefault(piece, token)
        twins = np.array([id_of.get(piece, -1) for piece in self._marked], np.int64)
        return np.where(twins >= 0, self.mapped[twins], np.int32(-1))

    @cached_property
    def lacks_marker(self) -> NDArray[np.bool_]:
        """Whether each source piece begins without the marker, bool [S]."""
        return ~_begins_with(self.respelled, self.target.marker)

    @cached_property
    def has_marker(self) -> NDArray[np.bool_]:
        """Whether each target piece begins with the marker, bool [V]."""
        return _begins_with([piece or "" for piece in self.target.pieces], self.target.marker)

    @property
    def _marked(self) -> list[str]:
        return [self.target.marker + piece if piece else "" for piece in self.respelled]

    def _spelled(self, pieces: list[str]) -> NDArray[np.int32]:
        id_of: dict[str, int] = {}
        for token, piece in enumerate(self.target.pieces):
            if piece:
                id_of.setdefault(piece, token)
        return np.array([id_of.get(piece, -1) for piece in pieces], np.int32)


def _begins_with(pieces: list[str], marker: str) -> NDArray[np.bool_]:
    return np.array([bool(marker) and piece.startswith(marker) for piece in pieces], bool)
