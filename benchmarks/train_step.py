"""The training step: with the fused objective over plain causal language modelling, same trainer, model and batch.

    python benchmarks/train_step.py --json train-step.json
    python benchmarks/train_step.py --quick

Every side is a whole optimiser step of the trainer: reading and making the batch, forward, backward, clipping, AdamW.
The model is SmolLM2-135M with its real weights, the text the demo corpus, the targets ten tokens at 93 of 100
positions. One thread, and the process's CPU seconds, which leave other processes out.

over_clm_bf16, over_clm_fp32: a fused step over the faster of two plain ones, both without any target to read (the
median of each round's ratio, the greater of the two):
    chunked   our own loss, the labels alone
    full      Hugging Face's loss, from all logits at once
over_clm_backward_* (not with --quick): the same without clipping and AdamW, which cost the same on both sides; with
many tokens in a step, as on a GPU, this is what the whole step tends to.
packed_over_padded_*: a fused step on packed rows over one on padded batches of the same sequences.
tokens_per_second_*: of each side.
stall_share: the part of a fused step in which it waits for its batch.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measure import at_most, interleaved, options, show, write
from torch import Tensor, nn

from logitfuse.kernels.chunks import cut
from logitfuse.kernels.losses.fused import ObjectiveParts
from logitfuse.kernels.positions import NO_LABEL, inputs_and_labels
from logitfuse.storage.checksums import checksum_file, text_hash
from logitfuse.storage.schemas import FUSE
from logitfuse.storage.shards import ShardWriter
from logitfuse.tasks.models.packing import packed
from logitfuse.tasks.models.vocabulary import encode_texts, load_tokenizer, read_vocabulary
from logitfuse.tasks.packaged.models import fetch_model
from logitfuse.tasks.packaged.text import fetch_text
from logitfuse.tasks.training.batch import collate
from logitfuse.tasks.training.batching import Batching
from logitfuse.tasks.training.config import FusedShard, WorkerConfig
from logitfuse.tasks.training.data import FusedRows
from logitfuse.tasks.training.objective import COMPUTE
from logitfuse.tasks.training.plan import StepPlan
from logitfuse.tasks.training.read_ahead import ReadAhead
from logitfuse.tasks.training.settings import TrainSettings, control_of
from logitfuse.tasks.training.trainer import Trainer

GOALS = {"over_clm_bf16": at_most(1.05), "over_clm_fp32": at_most(1.05), "stall_share": at_most(0.02)}
MODEL = "smollm2-135m"
K, SERVED = 10, 0.93
PLAIN = ("clm, chunked", "clm, full logits")
CHUNK_BYTES = 2048


def write_rows(path: Path, texts: list[str], folder: Path, *, k: int) -> FusedShard:
    """Write texts as stage fuse does, with k drawn target tokens at most positions, the true one among them."""
    tokenizer = load_tokenizer(folder)
    vocabulary = read_vocabulary(tokenizer)
    rng, rows = np.random.default_rng(0), []
    for number, (text, (ids, _)) in enumerate(zip(texts, encode_texts(tokenizer, vocabulary, texts), strict=True)):
        inputs, labels = inputs_and_labels(ids, start=vocabulary.roles.get("bos"), end=None)
        counts = np.where(rng.random(len(inputs)) < SERVED, k, 0)
        kept_TK = (labels[:, None] + np.arange(k)) % vocabulary.size  # the true token first
        probs_TK = -np.sort(-rng.dirichlet(np.full(k + 1, 0.3), len(inputs))[:, :k].clip(1e-6), axis=1)
        rows.append(
            {
                "doc_id": f"doc-{number}", "chunk": 0, "text_hash": text_hash(text), "split": "train", "domain": "demo",
                "inputs": inputs, "labels": labels, "counts": counts, "ids": kept_TK[counts > 0].ravel(),
                "logprobs": np.log(probs_TK[counts > 0]).ravel(), "mass": np.where(counts > 0, probs_TK.sum(1), 0),
                "winner": np.zeros_like(inputs), "weights": [1.0], "scores": [0.5],
            }
        )  # fmt: skip
    writer = ShardWriter(path, FUSE, {"stage": FUSE.stage, "version": str(FUSE.version)})
    for start in range(0, len(rows), 64):
        table = pa.Table.from_pylist(rows[start : start + 64], schema=FUSE.arrow)
        writer.write({name: table[name] for name in FUSE.arrow.names})
    writer.close()
    return FusedShard(path=path, checksum=checksum_file(path))


class FullLogits(nn.Module):
    """Hugging Face's own loss, called as the trainer calls our objective."""

    def __init__(self, model: nn.Module, dtype: str) -> None:
        super().__init__()
        self.model, self._dtype = model, COMPUTE[dtype]

    def forward(
        self, inputs_BT: Tensor, mask_BT: Tensor, labels_BT: Tensor, targets: Any, normaliser: float, *rest: Any
    ) -> ObjectiveParts:
        """Return the sum of the labels' losses over the normaliser."""
        lengths = rest[1]
        autocast = torch.autocast("cpu", dtype=self._dtype, enabled=self._dtype != torch.float32)
        with autocast, packed(self.model, lengths, one_kernel=False) as positions_1N:  # type: ignore[arg-type]
            loss = self.model(
                input_ids=inputs_BT,
                position_ids=positions_1N,
                labels=labels_BT,
                shift_labels=labels_BT,
                use_cache=False,
            ).loss
        labelled = (labels_BT != NO_LABEL).sum()
        zero = torch.zeros((), dtype=torch.float64)
        return ObjectiveParts(
            loss * labelled / normaliser, loss.detach().double() * labelled, zero, labelled, torch.zeros_like(labelled)
        )


@dataclass
class Side:
    """A trainer that learns in one way; all sides share model and optimiser."""

    trainer: Trainer
    waited: float = 0.0
    at: int = 0

    def step(self) -> None:
        """Do the next optimiser step."""
        self.trainer._step(self.at)
        self.at += 1

    def backward(self) -> None:
        """Sum the gradients of the next step and throw them away."""
        self.trainer._accumulate(self.at)
        self.trainer.optimizer.zero_grad(set_to_none=True)
        self.at += 1

    def watch_waiting(self) -> None:
        """Note from now on how long batches are waited for."""
        step = self.trainer.batches.step

        def timed(number: int) -> Iterator[Any]:
            batches = step(number)
            while True:
                started = time.perf_counter()
                batch = next(batches, None)
                self.waited += time.perf_counter() - started
                if batch is None:
                    return
                yield batch

        self.trainer.batches.step = timed  # type: ignore[method-assign]


def variant(
    trainer: Trainer, settings: TrainSettings, shard: FusedShard, *, packs: bool = True, full: bool = False
) -> Side:
    """Return a trainer of the same model and optimiser with another objective, other rows or other batches."""
    other = copy.copy(trainer)
    other.settings = settings
    if full:
        other.objective = FullLogits(trainer.model, settings.dtype)
    vocabulary = trainer.model.get_output_embeddings().weight.shape[0]  # type: ignore[union-attr]
    other.rows = FusedRows([shard.path], settings.sequence_length, vocabulary=vocabulary)
    other.batching = trainer.batching if packs else Batching(False, "padded for comparison")
    other.plan = StepPlan(other.rows.lengths, other.rows.groups, settings, packed=packs)
    other.batches = ReadAhead(
        lambda step: other.plan.micro_batches(step, 0, 1),
        len(other.plan),
        lambda windows: collate(other.rows.read(windows), packed=packs),
    )
    return Side(other)


def sides(dtype: str, texts: list[str], tokens: int, folder: Path) -> dict[str, Side]:
    """Return the ways to do a step of `tokens` tokens."""
    model = fetch_model(MODEL)
    fused = write_rows(folder / f"fused-{dtype}.parquet", texts, model, k=K)
    plain = write_rows(folder / f"plain-{dtype}.parquet", texts, model, k=0)
    settings = TrainSettings(
        dtype=dtype, tokens_per_step=tokens, micro_batch_tokens=tokens, sequence_length=1024, epochs=50
    )  # fmt: skip
    config = WorkerConfig(
        settings=settings, model=model, shards=(fused,), checkpoints=folder / dtype, metrics=folder / "m.jsonl"
    )
    trainer = Trainer(config, threading.Event(), lambda line: None)
    trainer.objective.train()
    return {
        "fused": variant(trainer, settings, fused),
        "fused, padded": variant(trainer, settings, fused, packs=False),
        "clm, chunked": variant(trainer, control_of(settings), plain),
        "clm, full logits": variant(trainer, control_of(settings), plain, full=True),
    }


def check(ways: dict[str, Side]) -> None:
    """Hold the sides equal before they are timed: the labels' loss is the same on the same sequences."""
    losses = {}
    for name, side in ways.items():
        sums, _ = side.trainer._accumulate(0)
        side.trainer.optimizer.zero_grad(set_to_none=True)
        losses[name] = sums.clm_sum / sums.labelled
    assert max(losses.values()) - min(losses.values()) < 5e-3 * max(losses.values()), losses


def paired(seconds: dict[str, list[float]], top: str, bottom: str) -> float:
    """Return the median over rounds of one side's time over another's: what slows a whole round down falls out."""
    return median(above / below for above, below in zip(seconds[top], seconds[bottom], strict=True))


def measure(
    dtype: str, texts: list[str], tokens: int, rounds: int, quick: bool
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Measure one dtype; return its metrics and each side's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        ways = sides(dtype, texts, tokens, Path(folder))
        check(ways)
        ways["fused"].step()  # the optimiser makes its state
        ways["fused"].at = 0  # in each round all sides do the same step
        ways["fused"].watch_waiting()
        calls: dict[str, Callable[[], None]] = {name: side.step for name, side in ways.items()}
        started = time.perf_counter()
        seconds = interleaved(calls, rounds, clock=time.process_time)
        wall = time.perf_counter() - started
        waited = ways["fused"].waited
        passes = {f"{name}, backward": way.backward for name, way in ways.items() if name != "fused, padded"}
        tokens_of_rounds = [ways["fused"].trainer.plan.tokens(number) for number in range(rounds)]
        backward = {} if quick else interleaved(passes, rounds, clock=time.process_time)
    metrics = {
        f"over_clm_{dtype}": max(paired(seconds, "fused", name) for name in PLAIN),
        f"packed_over_padded_{dtype}": paired(seconds, "fused", "fused, padded"),
        f"stall_share_{dtype}": waited / (wall * sum(seconds["fused"]) / sum(map(sum, seconds.values()))),
    }
    if backward:
        over = [paired(backward, "fused, backward", f"{name}, backward") for name in PLAIN]
        metrics[f"over_clm_backward_{dtype}"] = max(over)
    for name, values in seconds.items():
        side = name.replace(", ", "_").replace(" ", "_")
        metrics[f"tokens_per_second_{side}_{dtype}"] = sum(tokens_of_rounds) / sum(values)
    return metrics, {f"{name} {dtype}": values for name, values in (seconds | backward).items()}


def main() -> None:
    """Print the table and write the JSON."""
    arguments = options(__doc__).parse_args()
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)
    dtypes, tokens, rounds = (("bf16",), 256, 5) if arguments.quick else (("bf16", "fp32"), 512, 5)
    with fetch_text().open() as lines:
        texts = [text for line in lines for text in cut(json.loads(line)["text"], CHUNK_BYTES)]
    texts = [text for text in texts if len(text) > 200][: 128 if arguments.quick else 512]
    metrics: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    for dtype in dtypes:
        found, times = measure(dtype, texts, tokens, rounds, arguments.quick)
        metrics |= found
        seconds |= times
    metrics["stall_share"] = max(metrics.pop(f"stall_share_{dtype}") for dtype in dtypes)
    show("train step", metrics, GOALS, seconds)
    inputs = {"quick": arguments.quick, "model": MODEL, "tokens": tokens, "k": K, "rounds": rounds, "seconds": seconds}
    write(arguments.json, metrics, GOALS, inputs | {"threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
