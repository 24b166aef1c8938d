"""The sample as both tokenizers write it, in flat arrays. Legend: C chunks, N tokens of a side, P and T positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.alignment import Side, read_side
from logitfuse.tasks.alignment_report.sample import Sample
from logitfuse.tasks.alignment_report.scripts import token_scripts
from logitfuse.tasks.alignment_report.tokenizers import NamedTokenizer
from logitfuse.tasks.models.vocabulary import encode_texts


@dataclass(frozen=True, eq=False)
class Tokens:
    """One tokenizer's tokens: chunk c is `offsets[c]:offsets[c + 1]` of `ids` and of their byte `ends`."""

    ids: NDArray[np.int32]  # [N]
    ends: NDArray[np.int32]  # [N]
    offsets: NDArray[np.int64]  # [C+1]

    @cached_property
    def inside(self) -> Side:
        """The positions between two tokens of a chunk, as alignments take them."""
        return read_side(self.ids, self.ends, self.offsets, self._marks(False), start=False, end=None)

    @cached_property
    def borders(self) -> Side:
        """The same, and those before and after each chunk."""
        return read_side(self.ids, self.ends, self.offsets, self._marks(True), start=True, end=0)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The token that each position of `inside` predicts, int64 [P]: all but the first of each chunk."""
        later = np.ones(len(self.ids), bool)
        later[self.offsets[:-1][np.diff(self.offsets) > 0]] = False
        return np.flatnonzero(later)

    def counts(self, size: int) -> NDArray[np.int64]:
        """Return how often each id stands in the text, int64 [size]."""
        return np.bincount(self.ids, minlength=size).astype(np.int64)

    def _marks(self, value: bool) -> NDArray[np.bool_]:
        return np.full(len(self.offsets) - 1, value)


@dataclass(frozen=True, eq=False)
class Tokenised:
    """The sample's chunks under both tokenizers."""

    sample: Sample
    source: Tokens
    target: Tokens

    @cached_property
    def domains(self) -> list[str]:
        """The domain of each position of `target.inside`."""
        counts = np.diff(self.target.inside.position_offsets).tolist()
        return [domain for (domain, _), n in zip(self.sample.chunks, counts, strict=True) for _ in range(n)]

    @cached_property
    def scripts(self) -> NDArray[np.int8]:
        """The script of the token that each position of `target.inside` predicts, int8 [T]."""
        spans = zip(self.target.offsets[:-1].tolist(), self.target.offsets[1:].tolist(), strict=True)
        found = [
            token_scripts(text, self.target.ends[start:stop])
            for (_, text), (start, stop) in zip(self.sample.chunks, spans, strict=True)
        ]
        return np.concatenate(found)[self.target.predicted]


def tokenise(source: NamedTokenizer, target: NamedTokenizer, sample: Sample) -> Tokenised:
    """Tokenise every chunk with both tokenizers, as stage `encode` does."""
    return Tokenised(sample, _tokens(source, sample), _tokens(target, sample))


def _tokens(side: NamedTokenizer, sample: Sample) -> Tokens:
    encoded = encode_texts(side.tokenizer, side.vocabulary, [text for _, text in sample.chunks])
    lengths = [len(ids) for ids, _ in encoded]
    return Tokens(
        np.concatenate([ids for ids, _ in encoded]),
        np.concatenate([ends for _, ends in encoded]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )
