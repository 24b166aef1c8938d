"""How a model in training predicts the held-out sample: nats per byte by domain, leaving no trace in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from logitfuse.tasks.training.batch import collate
from logitfuse.tasks.training.data import Example
from logitfuse.tasks.training.held_out_sample import SampleRow, read_sample

if TYPE_CHECKING:
    from logitfuse.tasks.training.config import WorkerConfig

MEAN = "mean"  # over all bytes of the sample
Placed = tuple[int, list[Example]]  # a batch, and the number of its domain


class HeldOut:
    """The sample in batches, of which every process computes its share; all of them call it together.

    It draws no random number (dropout is off) and changes no state, so the weights are the same with and without it.
    """

    def __init__(self, sample: Path, accelerator: Accelerator, *, packed: bool, tokens: int) -> None:
        """Read a sample; `packed` and `tokens` are how training makes its batches."""
        rows = read_sample(sample)
        self._accelerator, self._packed = accelerator, packed
        self.domains = sorted({row.domain for row in rows})
        self._bytes_D = [sum(row.bytes for row in rows if row.domain == domain) for domain in self.domains]
        batches = [
            (number, batch)
            for number, domain in enumerate(self.domains)
            for batch in _batches([row for row in rows if row.domain == domain], tokens, packed)
        ]
        rank, processes = accelerator.process_index, accelerator.num_processes
        # All processes make the same number of passes, because a sharded model's parts are gathered in each.
        padding: list[Placed] = [(0, [])] * (-len(batches) % processes)
        self._mine = (batches + padding)[rank::processes]

    def nats_per_byte(self, objective: nn.Module) -> dict[str, float]:
        """Return the loss on each domain and, as `mean`, on all bytes."""
        nats_D = torch.zeros(len(self.domains), dtype=torch.float64, device=self._accelerator.device)
        with _reading_only(objective) as forward:
            for domain, examples in self._mine:
                batch = collate(examples, packed=self._packed).to(self._accelerator.device)
                parts = forward(*batch[:4], 1.0, 1.0, batch.lengths, batch.scores_DS)
                nats_D[domain] += parts.clm_sum
        found = self._accelerator.reduce(nats_D, "sum").tolist()
        each = {d: nats / size for d, nats, size in zip(self.domains, found, self._bytes_D, strict=True)}
        return {**each, MEAN: sum(found) / sum(self._bytes_D)}


def held_out(config: WorkerConfig, accelerator: Accelerator, *, packed: bool) -> HeldOut | None:
    """Return the sample a run is to look at, None if it has none."""
    if config.watch.sample is None:
        return None
    return HeldOut(config.watch.sample, accelerator, packed=packed, tokens=config.settings.micro_batch_tokens)


@contextmanager
def _reading_only(objective: nn.Module) -> Iterator[nn.Module]:
    """Yield what to call for a pass without gradients; afterwards the objective is as it was."""
    inner = objective.module if isinstance(objective, DistributedDataParallel) else objective
    training = inner.training
    inner.eval()
    try:
        with torch.no_grad():
            yield inner
    finally:
        inner.train(training)
        for module in inner.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # or the outermost unit would keep its whole weights, which the optimiser never sees


def _batches(rows: list[SampleRow], tokens: int, packed: bool) -> Iterator[list[Example]]:
    """Cut rows, longest first, into batches of at most `tokens` positions where one fits."""
    batch: list[Example] = []
    for row in sorted(rows, key=lambda row: -len(row.inputs)):
        taken = sum(len(e.inputs) for e in batch) if packed else len(batch) * len(batch[0].inputs) if batch else 0
        if batch and taken + (len(row.inputs) if packed else len(batch[0].inputs)) > tokens:
            yield batch
            batch = []
        batch.append(_example(row))
    if batch:
        yield batch


def _example(row: SampleRow) -> Example:
    """Return a row as a sequence without fused targets and sources."""
    none = np.zeros(0, np.float32)
    nowhere = np.zeros(len(row.inputs), np.int32)
    mass = nowhere.astype(np.float32)
    return Example(row.domain, row.inputs, row.labels, nowhere, mass, ids=nowhere[:0], logprobs=none, scores=none)
