"""What a vocabulary map is made from and what it is. Legend: S source ids, N entries of the map."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class How(IntEnum):
    """How a source id found its target ids. The numbers are stored: never change one."""

    UNMAPPED = 0
    EXACT = 1  # the same bytes
    ROLE = 2  # special tokens that play the same part, such as the end of the text
    BYTE = 3  # the same single byte, through a `<0xNN>` token on either side
    DISTANCE = 4  # the least edit distance
    FIRST_PIECE = 5  # a target piece the source piece begins with
    LEARNED = 6  # counted in text that both tokenizers cut


@dataclass(frozen=True, eq=False)
class VocabularyView:
    """A vocabulary as a map sees it; ids run over the model's head, so that padded ids are there without text.

    `texts[id]`: the bytes a token stands for, None for special tokens and ids that are no token. `roles`: part →
    special id (`bos`, `eos`, …, or the special token's own spelling). `byte_ids`: id → byte of `<0xNN>` tokens.
    `pieces[id]`: the spelling in the tokenizer's own file, None where there is no token; empty where nobody asks.
    `marker`: how the pieces spell a space (`▁`, `Ġ`), "" where they do not. `dummy_prefix`: the tokenizer puts a
    space before each text.
    """

    texts: Sequence[bytes | None]
    roles: Mapping[str, int] = field(default_factory=dict)
    byte_ids: Mapping[int, int] = field(default_factory=dict)
    pieces: Sequence[str | None] = ()
    marker: str = ""
    dummy_prefix: bool = False

    def __post_init__(self) -> None:
        if self.pieces and len(self.pieces) != len(self.texts):
            raise ValueError(f"{len(self.pieces)} pieces for {len(self.texts)} ids: give one per id, or none at all.")
        outside = [i for i in (*self.roles.values(), *self.byte_ids) if not 0 <= i < len(self.texts)]
        if outside:
            raise ValueError(f"ids {sorted(outside)} lie outside the vocabulary of {len(self.texts)} ids.")


class TwiceCut(NamedTuple):
    """One chunk of text as both tokenizers cut it: ids, and the byte each token ends at, -1 where not known."""

    source_ids: NDArray[np.int32]  # [L]
    source_ends: NDArray[np.int32]  # [L]
    target_ids: NDArray[np.int32]  # [M]
    target_ends: NDArray[np.int32]  # [M]


@dataclass(frozen=True, eq=False)
class MapContext:
    """What a strategy may need beside the two vocabularies, given by the stage.

    `target_encode`: the target's own tokenisation of each text as it would stand behind other text; an empty list
    where it has none. `pairs`: chunks of training text, for strategies that ask for text (`tokens_to_fit`).
    `workers`: threads; changes no result.
    """

    target_encode: Callable[[Sequence[str]], list[list[int]]] | None = None
    workers: int = 1
    pairs: Iterable[TwiceCut] | None = None


@dataclass(frozen=True, eq=False)
class VocabularyMap:
    """Source id → target ids with weights, as compressed rows: row s is `offsets[s]:offsets[s + 1]`.

    offsets int64 [S+1], target_ids int32 [N], weights float32 [N] (P(y|s); a mapped row sums to 1), distance int32 [S]
    (code points; 0 for equal bytes, -1 where none was measured), how int8 [S] (`How`), times float32 [S] (how often
    each id was counted, 0 where it was not; left out: nothing was counted).
    """

    offsets: NDArray[np.int64]
    target_ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    distance: NDArray[np.int32]
    how: NDArray[np.int8]
    times: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        rows, entries = len(self.offsets) - 1, len(self.target_ids)
        if not len(self.times):
            object.__setattr__(self, "times", np.zeros(rows, np.float32))
        if not (len(self.distance) == len(self.how) == len(self.times) == rows and len(self.weights) == entries):
            raise ValueError("a vocabulary map's arrays do not belong together: their lengths differ.")
        if self.offsets[0] != 0 or self.offsets[-1] != entries or (np.diff(self.offsets) < 0).any():
            raise ValueError("a vocabulary map's offsets do not rise from 0 to the number of its entries.")

    @property
    def source_size(self) -> int:
        """Number of source ids, mapped or not."""
        return len(self.how)

    def target_habits(self, width: int) -> NDArray[np.float64]:
        """Return how often the target writes each of its `width` ids on the whole, P(y) float64 [width].

        Counted together from all rows; where nothing was counted, all ids are alike.
        """
        rows = np.repeat(np.arange(self.source_size), np.diff(self.offsets))
        found = np.bincount(self.target_ids, self.times[rows].astype(np.float64) * self.weights, width)
        whole = found.sum()
        return found / whole if whole > 0 else np.full(len(found), 1 / max(len(found), 1))

    def counts(self) -> dict[str, int]:
        """Return how many source ids were found how, by lower-case name, for reports."""
        numbers = np.bincount(self.how, minlength=len(How))
        return {how.name.lower(): int(numbers[how]) for how in How}


def one_to_one(targets: NDArray[np.int32], how: NDArray[np.int8], distance: NDArray[np.int32]) -> VocabularyMap:
    """Return the map that sends source id s to `targets[s]` with weight 1, or nowhere where that is -1."""
    mapped = targets >= 0
    offsets = np.concatenate([[0], np.cumsum(mapped)]).astype(np.int64)
    return VocabularyMap(offsets, targets[mapped], np.ones(int(offsets[-1]), np.float32), distance, how)


def identity_map(size: int, width: int | None = None) -> VocabularyMap:
    """Return the map between models that share a tokenizer of `size` ids.

    `width` is that of the source's head: ids from `size` up to it are no token and stay unmapped.
    """
    ids = np.arange(size if width is None else width, dtype=np.int32)
    token = ids < size
    targets = np.where(token, ids, np.int32(-1))
    how = np.where(token, np.int8(How.EXACT), np.int8(How.UNMAPPED))
    return one_to_one(targets, how, np.where(token, np.int32(0), np.int32(-1)))
