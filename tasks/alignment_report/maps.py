"""The vocabulary map of a report, and what alignments of tokens need of it."""

from __future__ import annotations

import os

import numpy as np

from logitfuse.kernels.alignment import Spelling, VocabularyPair
from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, TwiceCut, VocabularyMap, identity_map
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.aligner import leaves_out_first_space
from logitfuse.tasks.alignment_report.tokenizers import NamedTokenizer
from logitfuse.tasks.alignment_report.tokens import Tokenised
from logitfuse.tasks.models.vocabulary import map_context

MANY_COMPARISONS = 2_500_000_000  # pieces by pieces: more than about ten seconds on two cores


def is_same(source: NamedTokenizer, target: NamedTokenizer) -> bool:
    """Return whether both are one tokenizer, so that every token is itself and every position serves its own."""
    return source.vocabulary.fingerprint == target.vocabulary.fingerprint


def build_map(source: NamedTokenizer, target: NamedTokenizer, strategy: str, tokenised: Tokenised) -> VocabularyMap:
    """Return the map that a run with these tokenizers would use; a strategy that is fitted on text gets the sample.

    Raises BadInput where the strategy needs options or more than tokenizers and text.
    """
    if is_same(source, target):
        return identity_map(source.vocabulary.size)
    workers = os.cpu_count() or 1
    context = map_context(target.tokenizer, target.vocabulary, workers, list(twice_cut(tokenised)))
    try:
        return VOCABULARY_MAPS.get(strategy)(source.view, target.view, context)
    except (ValueError, TypeError) as error:
        raise BadInput(f"--map {strategy}: {error}") from error


def is_slow_by_distance(source: NamedTokenizer, target: NamedTokenizer) -> bool:
    """Return whether finding the nearest piece for each source piece without an equal one takes long."""
    ours, theirs = set(source.vocabulary.texts), set(target.vocabulary.texts)
    return len(ours - theirs) * len(theirs) > MANY_COMPARISONS


def twice_cut(tokenised: Tokenised) -> list[TwiceCut]:
    """Return the sample's chunks as both tokenizers cut them."""
    sides = (tokenised.source, tokenised.target)
    parts = [np.split(array, side.offsets[1:-1]) for side in sides for array in (side.ids, side.ends)]
    return [TwiceCut(*arrays) for arrays in zip(*parts, strict=True)]


def vocabulary_pair(source: NamedTokenizer, target: NamedTokenizer, found: VocabularyMap) -> VocabularyPair:
    """Return both spellings with the map between them, as alignments of tokens want them."""
    ours, theirs = (Spelling(side.vocabulary.pieces, side.vocabulary.marker) for side in (source, target))
    marks_first = leaves_out_first_space(source.tokenizer)
    return VocabularyPair(ours, theirs, found.offsets, found.target_ids, found.weights, marks_first)
