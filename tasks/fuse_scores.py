"""How stage fuse scores its sources: per document, in the unit that the settings ask for."""

# legend: S sources, D documents, C chunks

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from logitfuse.kernels.fusion.evidence import span_scores
from logitfuse.kernels.scores import shared_steps
from logitfuse.kernels.sparse import row_sums
from logitfuse.tasks.fuse_documents import Documents
from logitfuse.tasks.fuse_settings import Score


def document_scores(documents: Documents, score: Score, half: bool) -> NDArray[np.float64]:
    """Return each source's score on each document, float64 [S, D], lower is better; +inf where it has none.

    nats_per_byte: over the bytes that all sources predict, start and end tokens left out. nats_per_token: over all
    that each source predicts, its end token too; with `half` in fp16 as published (each token's cross-entropy
    rounded, the sum rounded, and the mean rounded).
    """
    if score == "nats_per_byte":
        nats_SC, bytes_C = documents.shared.totals()
        return _means(nats_SC, np.stack([bytes_C] * len(nats_SC)), documents.documents, half=False)
    sums = [_sums(*of, half) for of in documents.gold]
    nats_SC, tokens_SC = (np.stack(column) for column in zip(*sums, strict=True))
    return _means(nats_SC, tokens_SC, documents.documents, half)


def position_scores(documents: Documents, scores_SD: NDArray[np.float64], *, by_span: bool) -> NDArray[np.float64]:
    """Return the scores [S, T] of each position: those of its document, or with `by_span` those of the text between
    the two byte boundaries around it that all sources and the target share."""
    scores_ST = np.repeat(scores_SD, np.diff(documents.position_offsets), axis=1)
    if not by_span:
        return scores_ST
    shared = shared_steps(documents.scored, documents.text)
    return span_scores(shared, documents.passages.offsets, documents.passages.consumed, scores_ST)


def _means(nats_SC: NDArray, sizes_SC: NDArray, documents: NDArray[np.int64], half: bool) -> NDArray[np.float64]:
    nats_SD = np.add.reduceat(nats_SC, documents[:-1], axis=1)
    sizes_SD = np.add.reduceat(sizes_SC, documents[:-1], axis=1).astype(np.float64)
    means_SD = np.full(nats_SD.shape, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows fp16 is no score
        if half:
            nats_SD, sizes_SD = _half(nats_SD), _half(sizes_SD)
        np.divide(nats_SD, sizes_SD, out=means_SD, where=sizes_SD > 0)
        found = _half(means_SD) if half else means_SD
    return np.where(np.isfinite(found), found, np.inf)


def _half(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to fp16 by way of float32, in which the published code adds up and divides."""
    return values.astype(np.float32).astype(np.float16).astype(np.float64)


def _sums(
    offsets: NDArray[np.int64], gold_logprobs: NDArray[np.float32], half: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return -Σ log p and the number of predicted tokens of each chunk; past the end there is none (NaN)."""
    nats = -gold_logprobs.astype(np.float64)
    if half:
        with np.errstate(over="ignore"):
            nats = _half(nats)
    predicted = ~np.isnan(nats)
    return row_sums(offsets, np.where(predicted, nats, 0.0)), row_sums(offsets, predicted.astype(np.float64))
