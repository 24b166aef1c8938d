"""Sequences as tensors: each padded on the right in a row of its own, or one after another in one row."""

# legend: B sequences, T positions of the longest, N = B·T, K kept tokens, D sequences, S sources

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.errors import ShardCorrupt
from logitfuse.tasks.training.data import Example

# Log-probabilities are stored with fp16 precision, the mass with that of float32.
MASS_TOLERANCE = 0.01


class Batch(NamedTuple):
    """What one forward pass reads."""

    inputs_BT: Tensor  # int64
    mask_BT: Tensor  # int64, 0 at padding
    labels_BT: Tensor  # int64, -100 at padding
    targets: SparseTargets  # of the N positions, row after row
    documents: tuple[str, ...]
    scores_DS: Tensor  # float32, of each source on each sequence, NaN where it has none
    lengths: tuple[int, ...] | None = None  # of the texts where they are packed in one row (B = 1, T = N)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        targets = SparseTargets(*(column.to(device, non_blocking=True) for column in self.targets))
        inputs_BT, mask_BT, labels_BT = (t.to(device, non_blocking=True) for t in self[:3])
        scores_DS = self.scores_DS.to(device, non_blocking=True)
        return Batch(inputs_BT, mask_BT, labels_BT, targets, self.documents, scores_DS, self.lengths)


def collate(examples: Sequence[Example], *, packed: bool = False) -> Batch:
    """Put sequences into one row, or pad them to the longest. Nothing at all becomes one unlabelled token, so that a
    pass can still be made.
    """
    if not examples:
        empty, none = np.zeros(1, np.int32), np.zeros(1, np.float32)
        no_score = np.full(1, np.nan, np.float32)
        blank = Example("", empty, empty + NO_LABEL, empty, none, empty[:0], none[:0], no_score)
        return collate([blank], packed=packed)._replace(documents=())
    rows = _in_one_row if packed else _padded
    inputs_BT = rows([e.inputs for e in examples], 0)
    labels_BT = rows([e.labels for e in examples], NO_LABEL)
    mask_BT = rows([np.ones_like(e.inputs) for e in examples], 0)
    counts_N, mass_N = (
        rows(values, 0).reshape(-1) for values in ([e.counts for e in examples], [e.mass for e in examples])
    )
    return Batch(
        _int64(inputs_BT),
        _int64(mask_BT),
        _int64(labels_BT),
        _targets(examples, counts_N, mass_N),
        tuple(e.doc_id for e in examples),
        torch.from_numpy(np.stack([e.scores for e in examples])),
        tuple(len(e.inputs) for e in examples) if packed else None,
    )


def _in_one_row(rows: Sequence[NDArray], padding: int) -> NDArray:
    return np.concatenate(rows)[None]


def _int64(values: NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _padded(rows: Sequence[NDArray], padding: int) -> NDArray:
    padded = np.full((len(rows), max(map(len, rows))), padding, dtype=rows[0].dtype)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def _targets(examples: Sequence[Example], counts_N: NDArray[np.int32], mass_N: NDArray[np.float32]) -> SparseTargets:
    # Entries of all sequences follow one another, as the positions they belong to do: one mask places them all.
    kept_NK = np.arange(max(1, counts_N.max()))[None, :] < counts_N[:, None]
    ids_NK = np.zeros(kept_NK.shape, dtype=np.int64)
    ids_NK[kept_NK] = np.concatenate([e.ids for e in examples])
    probs_NK = np.zeros(kept_NK.shape, dtype=np.float64)
    probs_NK[kept_NK] = np.exp(np.concatenate([e.logprobs for e in examples]).astype(np.float64))
    served_N = counts_N > 0
    sums_N = probs_NK.sum(-1)
    if np.abs(sums_N - mass_N)[served_N].max(initial=0) > MASS_TOLERANCE or not np.isfinite(sums_N).all():
        raise ShardCorrupt(
            f"documents {[e.doc_id for e in examples]}: the kept probabilities of a position do not sum to its mass. "
            "Redo stage 'fuse' for their shard."
        )
    # Published targets, made in bfloat16, may add up to a little more than 1; nothing is left out of them then.
    mass_N = np.where(served_N, mass_N, 0)
    probs_NK *= (mass_N / np.where(sums_N > 0, sums_N, 1))[:, None]
    tail_N = np.where(served_N, np.maximum(1 - mass_N, 0), 0).astype(np.float32)
    arrays = ids_NK, probs_NK.astype(np.float32), tail_N, served_N
    return SparseTargets(*map(torch.from_numpy, arrays))
