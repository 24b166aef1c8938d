"""All numbers of a report as plain data: what the terminal, the JSON file and the page show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from logitfuse.kernels.alignment import ALIGNMENTS, one_to_one
from logitfuse.kernels.registry import UnknownName
from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, VocabularyMap, tokens_to_fit
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.alignment_report.mapped import (
    mean_distance,
    next_token_weights,
    shares_by_how,
    tie_share,
    worst_pieces,
)
from logitfuse.tasks.alignment_report.maps import build_map, is_same, is_slow_by_distance, vocabulary_pair
from logitfuse.tasks.alignment_report.sample import Sample
from logitfuse.tasks.alignment_report.served import reading_shares, script_names, segment_counts, share_by
from logitfuse.tasks.alignment_report.tokenizers import NamedTokenizer
from logitfuse.tasks.alignment_report.tokens import Tokenised, Tokens, tokenise


class Method(NamedTuple):
    """An alignment of positions together with a vocabulary map, by their strategies' names."""

    alignment: str
    map: str


PAPER = Method("dtw", "mined")


def check_methods(methods: Sequence[Method]) -> None:
    """Raise BadInput, with the closest known name, for a strategy that does not exist."""
    for method in methods:
        try:
            ALIGNMENTS.get(method.alignment)
            VOCABULARY_MAPS.get(method.map)
        except UnknownName as error:
            raise BadInput(str(error)) from error


def gather(source: NamedTokenizer, target: NamedTokenizer, sample: Sample, methods: Sequence[Method]) -> dict[str, Any]:
    """Return the report on how `source` could teach `target` over the sample, once for each method.

    The paper's map is counted beside those of the methods; where that takes long, `not_counted` names it instead.
    Shares lie in 0..1. A *position* lies between two tokens of a chunk and predicts the second of them.
    """
    check_methods(methods)
    tokenised = tokenise(source, target, sample)
    names = {method.map: None for method in methods}
    slow = PAPER.map not in names and is_slow_by_distance(source, target)
    if not slow and not is_same(source, target):
        names[PAPER.map] = None
    maps = {name: build_map(source, target, name, tokenised) for name in names}
    some_pair = vocabulary_pair(source, target, maps[methods[0].map])
    return {
        "source": _side_facts(source, tokenised.source, sample),
        "target": _side_facts(target, tokenised.target, sample),
        "same_tokenizer": is_same(source, target),
        "text": {
            "name": sample.name, "documents": sample.documents, "bytes": sample.bytes, "cut_short": sample.cut_short,
        },
        "segments": segment_counts(tokenised, some_pair),
        "maps": {
            name: {
                "fitted_on_the_text": not is_same(source, target) and tokens_to_fit(name, {}) is not None,
                **_map_facts(source, target, found, tokenised.source),
            }
            for name, found in maps.items()
        },
        "not_counted": [PAPER.map] if slow else [],
        "methods": [_method_facts(source, target, tokenised, method, maps[method.map]) for method in methods],
    }  # fmt: skip


def _side_facts(side: NamedTokenizer, tokens: Tokens, sample: Sample) -> dict[str, Any]:
    count = len(tokens.ids)
    return {
        "name": side.name,
        "kind": side.vocabulary.kind,
        "ids": side.vocabulary.size,
        "holes": sum(piece is None for piece in side.vocabulary.pieces),
        "dummy_prefix": side.vocabulary.dummy_prefix,
        "fingerprint": side.vocabulary.fingerprint,
        "tokens": count,
        "bytes_per_token": sample.bytes / max(count, 1),
        "tokens_without_byte_end": int((tokens.ends < 0).sum()),
    }


def _map_facts(source: NamedTokenizer, target: NamedTokenizer, found: VocabularyMap, tokens: Tokens) -> dict[str, Any]:
    counts = tokens.counts(found.source_size)
    is_token = np.array([piece is not None for piece in source.vocabulary.pieces], np.int64)
    return {
        "vocabulary": shares_by_how(found, is_token),
        "text": shares_by_how(found, counts),
        "mean_distance": mean_distance(found, is_token),
        "mean_distance_in_text": mean_distance(found, counts),
        "ties": tie_share(found, source.view, target.view, workers=os.cpu_count() or 1),
        "worst": worst_pieces(found, source.vocabulary, target.vocabulary, counts),
    }


def _method_facts(
    source: NamedTokenizer, target: NamedTokenizer, tokenised: Tokenised, method: Method, found: VocabularyMap
) -> dict[str, Any]:
    sides = (tokenised.source.inside, tokenised.target.inside)
    if is_same(source, target):
        serving = one_to_one(*sides)
    else:
        serving = ALIGNMENTS.get(method.alignment)(*sides, vocabulary_pair(source, target, found))
    served = serving >= 0
    source_next = tokenised.source.ids[tokenised.source.predicted[serving[served]]]
    target_next = tokenised.target.ids[tokenised.target.predicted[served]]
    agrees = next_token_weights(found, source_next, target_next)
    return {
        **method._asdict(),
        "positions": len(served),
        "served": float(served.mean()) if len(served) else 0.0,
        "next_token_agrees": float(agrees.mean()) if len(agrees) else 0.0,
        **reading_shares(serving, *sides),
        "by_domain": share_by(tokenised.domains, served),
        "by_script": share_by(script_names(tokenised), served),
    }
