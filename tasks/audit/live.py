"""The live model on sampled chunks, twice: each alone, and in a batch with others, to see what that alone changes."""

# legend: P positions, T positions of a padded batch, H hidden size

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor

from logitfuse.tasks.audit.sample import Sampled
from logitfuse.tasks.models.causal import CausalModel, padded

MORE = 7  # positions that the longest of a batch is padded by at least: another shape, which rounds differently


def alone(model: CausalModel, sampled: Sampled) -> Tensor:
    """Return the last hidden states [P, H] of a chunk that is run by itself."""
    return model.hidden(*padded([sampled.inputs]))[0]


def batches(sample: Iterable[Sampled], tokens: int) -> Iterator[list[Sampled]]:
    """Group chunks, in order, so that a padded batch stays within `tokens`; a longer one is a batch of its own."""
    batch: list[Sampled] = []
    for sampled in sample:
        longest = max(len(one.inputs) for one in [*batch, sampled])
        if batch and longest * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(sampled)
    if batch:
        yield batch


def in_company(model: CausalModel, batch: list[Sampled], longest: int) -> Iterator[Tensor]:
    """Yield the last hidden states [P, H] of chunks that are run together, in one row where the model allows that.

    A stranger is read with them, a chunk backwards, so that no batch is of one alone; `longest` is the model's context.
    """
    widest = max((one.inputs for one in batch), key=len)
    stranger = np.resize(widest[::-1], min(len(widest) + MORE, max(longest, len(widest))))
    texts = [stranger, *(one.inputs for one in batch)]
    if model.packing.why_not is None:
        yield from model.hidden_packed(texts).split([len(text) for text in texts])[1:]
        return
    hidden_BTH = model.hidden(*padded(texts))
    for hidden_TH, one in zip(hidden_BTH[1:], batch, strict=True):
        yield hidden_TH[: len(one.inputs)]
