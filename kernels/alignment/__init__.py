"""Sequence alignments: which source position serves each target position. One file per strategy.

A strategy is called with (source: Side, target: Side, pair: VocabularyPair, *, options), sides being the same chunks
of text as two models read them, and returns for each target position the index of the source position that serves
it, int64 [T], -1 where none does. Legend: C chunks, P and T positions, N tokens, S and V ids of two vocabularies.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.alignment.pair import Spelling, VocabularyPair
from logitfuse.kernels.alignment.sides import Side, one_to_one, read_side
from logitfuse.kernels.registry import Registry

ALIGNMENTS: Registry[Callable[..., NDArray[np.int64]]] = Registry("alignment", __name__)

__all__ = ["ALIGNMENTS", "Side", "Spelling", "VocabularyPair", "one_to_one", "read_side"]
