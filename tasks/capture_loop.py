"""A source over the batches of one shard: hidden states, what is kept of them, and both fetched while it goes on.

The model runs one batch ahead of the results: on a GPU they are copied while the next batch computes. Memory that does
not suffice costs no work: the head's chunk is halved first, which changes nothing but roundings of the last bit; then
the batch is cut in two, which is noted, for a batch plan is part of what fixes the bytes.

legend: N positions of a batch, P of a passage
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size

from logitfuse.kernels.keep import all_finite
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.kernels.topk import RANK_CAP, TopK, joined
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.causal import padded

if TYPE_CHECKING:
    from logitfuse.tasks.capture_settings import CaptureSettings
    from logitfuse.tasks.models.causal import CausalModel
    from logitfuse.tasks.passages import Batch, Passage

Item = TypeVar("Item")
CPU_HEAD_POSITIONS = 128
GPU_LOGIT_BYTES = 2**30


class Launched(NamedTuple):
    """A batch whose results may still be on their way."""

    batch: Batch
    found: TopK | None  # None where the batch has no position
    arrived: Callable[[], None]  # waits until they are here


@dataclass
class Fitting:
    """What was found to fit into memory, and what had to be changed for it."""

    head_positions: int
    most_tokens: int | None = None
    notes: list[str] | None = None

    def note(self, line: str) -> None:
        self.notes = [*(self.notes or []), line]


def captured(
    model: CausalModel, batches: Iterable[Batch], settings: CaptureSettings, packed: bool, fitting: Fitting
) -> Iterator[tuple[int, TopK | None]]:
    """Yield each passage's number and what is kept of it [P], None of an empty one, batch by batch; on the CPU."""
    ahead: Launched | None = None
    for batch in batches:
        for launched in launch(model, batch, settings, packed, fitting):
            if ahead is not None:
                yield from fetch(ahead)
            ahead = launched
    if ahead is not None:
        yield from fetch(ahead)


def head_positions(model: CausalModel, settings: CaptureSettings) -> int:
    """Return how many positions' logits may exist at a time."""
    if settings.head_positions is not None:
        return settings.head_positions
    if model.device.type == "cpu":
        return CPU_HEAD_POSITIONS
    return max(CPU_HEAD_POSITIONS, GPU_LOGIT_BYTES // (4 * len(model.head.weight_VH)))


def launch(
    model: CausalModel, batch: Batch, settings: CaptureSettings, packed: bool, fitting: Fitting
) -> Iterator[Launched]:
    """Run one batch, in halves where it does not fit into memory; raises `ModelRefused` if one passage does not."""
    several = len(batch.numbers) > 1
    if several and fitting.most_tokens is not None and batch.tokens > fitting.most_tokens:
        for half in batch.halves():
            yield from launch(model, half, settings, packed, fitting)
        return
    launched = None
    try:
        launched = _launch(model, batch, settings, packed, fitting)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        if not several:
            raise _too_long(batch, error) from error
    if launched is not None:
        yield launched
        return
    fitting.most_tokens = batch.tokens // 2
    fitting.note(f"batches of at most {fitting.most_tokens} tokens, since {batch.tokens} did not fit into memory")
    _free(model)
    yield from launch(model, batch, settings, packed, fitting)


def _launch(model: CausalModel, batch: Batch, settings: CaptureSettings, packed: bool, fitting: Fitting) -> Launched:
    if not batch.tokens:
        return Launched(batch, None, lambda: None)
    texts = [passage.inputs for passage in batch.passages if len(passage)]
    if packed:
        hidden_NH = model.hidden_packed(texts)
    else:
        ids_BT, mask_BT = padded(texts)
        hidden_NH = model.hidden(ids_BT, mask_BT)[mask_BT.bool().to(model.device)]
    labels_N = torch.from_numpy(np.concatenate([passage.labels for passage in batch.passages]).astype(np.int64))
    noise_N = None
    if settings.mode == "sampled":
        noise_N = torch.from_numpy(np.concatenate([noise(passage, settings.seed) for passage in batch.passages]))
    found = _kept(model, hidden_NH, labels_N.clamp_min(0), noise_N, settings, fitting)
    return Launched(batch, *_to_host(found))


def _kept(
    model: CausalModel,
    hidden_NH: torch.Tensor,
    gold_N: torch.Tensor,
    noise_N: torch.Tensor | None,
    settings: CaptureSettings,
    fitting: Fitting,
) -> TopK:
    """Return what is kept of all positions, chunk by chunk; chunks that do not fit into memory are halved for good."""
    parts: list[TopK] = []
    start, gold_N = 0, gold_N.to(hidden_NH.device)
    while start < len(gold_N):
        chunk = slice(start, start + fitting.head_positions)
        noise = None if noise_N is None else noise_N[chunk]
        try:
            parts.append(model.kept(hidden_NH[chunk], gold_N[chunk], settings.keep, noise))
        except Exception as error:
            if fitting.head_positions == 1 or not _is_out_of_memory(error):
                raise
        else:
            start += fitting.head_positions
            continue
        fitting.head_positions = (min(fitting.head_positions, len(gold_N)) + 1) // 2
        fitting.note(f"head chunks of {fitting.head_positions} positions, since twice as many did not fit into memory")
        _free(model)
    return joined(parts)


def noise(passage: Passage, seed: int) -> np.ndarray:
    """Return the number by which each position's draws are made, float64 [P] in [0, 1).

    It depends on the seed, the text and the position alone: not on batches, sources or the order of work.
    """
    said = f"{seed}/{passage.identity['chunk']}/{passage.identity['doc_id']}".encode()
    digest = blake2b(said + passage.identity["text_hash"], digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(len(passage))


def _to_host(found: TopK) -> tuple[TopK, Callable[[], None]]:
    """Start copying results to the CPU; return them and what waits until they are there."""
    if not found.ids_TK.is_cuda:
        return found, lambda: None
    copies = [None if column is None else _copied(column) for column in found]
    done = torch.cuda.Event()
    done.record()
    return TopK(*copies), done.synchronize  # type: ignore[arg-type]


def _copied(column: torch.Tensor) -> torch.Tensor:
    room = torch.empty(column.shape, dtype=column.dtype, pin_memory=True)
    return room.copy_(column, non_blocking=True)


def fetch(launched: Launched) -> Iterator[tuple[int, TopK | None]]:
    """Yield each passage's number and what is kept of it, None of an empty one; refuse what is not a number."""
    launched.arrived()
    found, start = launched.found, 0
    for number, passage in zip(*launched.batch, strict=True):
        rows = slice(start, start + len(passage))
        start = rows.stop
        if found is None or not len(passage):
            yield number, None
            continue
        part = TopK(*(None if column is None else column[rows] for column in found))  # type: ignore[arg-type]
        if not bool(all_finite(part).all()):
            raise _not_finite(passage)
        yield number, _without_gold_past_the_end(part, passage)


def _without_gold_past_the_end(found: TopK, passage: Passage) -> TopK:
    """Say of positions past the end token that nothing follows; another token stood for it in the computation."""
    unlabelled_P = torch.from_numpy(passage.labels == NO_LABEL)
    return found._replace(
        gold_logprob_T=found.gold_logprob_T.masked_fill(unlabelled_P, torch.nan),
        gold_rank_T=found.gold_rank_T.masked_fill(unlabelled_P, RANK_CAP),
    )


def in_order(found: Iterable[tuple[int, Item]]) -> Iterator[Item]:
    """Yield items by rising number, from 0; those that come early wait."""
    waiting: dict[int, Item] = {}
    wanted = 0
    for number, item in found:
        waiting[number] = item
        while wanted in waiting:
            yield waiting.pop(wanted)
            wanted += 1


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)


def _free(model: CausalModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def _not_finite(passage: Passage) -> ModelRefused:
    return ModelRefused(
        f"document {passage.identity['doc_id']!r}, chunk {passage.identity['chunk']}: the model's logits are not "
        "finite. Try dtype float32 for this source, or check its weights."
    )


def _too_long(batch: Batch, error: Exception) -> ModelRefused:
    identity = batch.passages[0].identity
    return ModelRefused(
        f"document {identity['doc_id']!r}, chunk {identity['chunk']}: {batch.tokens} tokens alone do not fit into "
        f"memory ({str(error).splitlines()[0][:200]}). Set capture.max_length below that, corpus.max_chunk_bytes "
        "smaller, or use a device with more memory."
    )
