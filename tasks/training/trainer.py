"""The training loop: every step reads what the plan says, and nothing but step number and tensors is its state."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor
from torch.distributed.tensor import DTensor

from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.training.batch import collate
from logitfuse.tasks.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    remove_scratch,
    save_checkpoint,
)
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.data import FusedRows
from logitfuse.tasks.training.export import export_model, original_dtype
from logitfuse.tasks.training.loading import load_model, make_optimizer, verify_shards
from logitfuse.tasks.training.metrics import MetricsFile
from logitfuse.tasks.training.objective import Objective
from logitfuse.tasks.training.plan import StepPlan
from logitfuse.tasks.training.report import StepSums, not_finite, progress_line, step_line
from logitfuse.tasks.training.schedule import clm_weight, learning_rate
from logitfuse.tasks.training.sharding import gradients_shared, spread
from logitfuse.tasks.training.tensors import model_tensors

SECONDS_BETWEEN_LINES = 10.0


class Stopped(Exception):
    """Training was asked to stop; a checkpoint holds all that was done."""


class Trainer:
    """One training run in one of its processes."""

    def __init__(self, config: WorkerConfig, stop: threading.Event, say: Callable[[str], None]) -> None:
        """Load data, model and the latest checkpoint. `stop` may be set at any time; `say` gets lines for people."""
        self.config, self.settings = config, config.settings
        self.accelerator = Accelerator(
            mixed_precision="no",  # the objective states its own
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        self._say = say if self.accelerator.is_main_process else (lambda line: None)
        self._stop = stop
        if self.accelerator.is_local_main_process:
            verify_shards(config.shards)
        self.accelerator.wait_for_everyone()
        self.model = load_model(config)
        if not (config.sharded and self.accelerator.num_processes > 1):  # sharding moves each part as it is cut
            self.model.to(self.accelerator.device)
        objective = Objective(self.model, self.settings)
        self.rows = FusedRows(
            [shard.path for shard in config.shards],
            self.settings.sequence_length,
            vocabulary=self.model.get_output_embeddings().weight.shape[0],
            cached_rows=self.settings.shuffle_rows,
        )
        self.plan = StepPlan(self.rows.lengths, self.rows.groups, self.settings)
        self.objective = spread(objective, self.accelerator, sharded=config.sharded, dtype=self.settings.dtype)
        self.optimizer = make_optimizer(self.model, self.settings)
        self.done = self._resume()

    def train(self) -> None:
        """Do the steps that are missing and export the model; raise `Stopped` if asked to stop before the end."""
        metrics = MetricsFile(self.config.metrics, self.done) if self.accelerator.is_main_process else None
        self.objective.train()
        said = 0.0
        for step in range(self.done, len(self.plan)):
            line, stop = self._step(step)
            self.done = step + 1
            if metrics:
                metrics.write(line)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES or self.done == len(self.plan):
                said = time.monotonic()
                self._say(progress_line(line))
            if self.done < len(self.plan) and (stop or self.done % self.config.checkpoint_every_steps == 0):
                self._save()
            if stop and self.done < len(self.plan):
                raise Stopped(f"stopped after step {self.done} of {len(self.plan)}, which is saved")
        self._export()

    def _step(self, step: int) -> tuple[dict[str, Any], bool]:
        """Do one optimiser step; return its line of metrics, and whether any process was asked to stop."""
        began = time.monotonic()
        self._seed(step)
        rate = learning_rate(step, len(self.plan), self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = self._accumulate(step)
        norm = self._clipped_norm(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        line = step_line(sums, step, len(self.plan), epoch=self.plan.epoch(step), grad_norm=norm, learning_rate=rate)
        return {**line, "tokens_per_s": sums.labelled / (time.monotonic() - began)}, sums.stop

    def _accumulate(self, step: int) -> StepSums:
        """Sum the gradients of a step's sequences and return their losses over all processes."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        batches = self.plan.micro_batches(step, rank, processes)
        # Gradients are averaged over processes, the loss is a sum over them.
        per_sequence = self.settings.weighting == "sequence"
        normaliser = (len(self.plan.step(step)) if per_sequence else self.plan.tokens(step)) / processes
        weight = clm_weight(step, len(self.plan), self.settings)
        found: list[tuple[tuple[str, ...], Tensor]] = []
        for number, windows in enumerate(batches):
            batch = collate(self.rows.read(windows)).to(self.accelerator.device)
            with gradients_shared(self.objective, number == len(batches) - 1):
                parts = self.objective(*batch[:4], normaliser, weight)
                parts.loss.backward()
            found.append((batch.documents, torch.stack([part.detach().double() for part in parts])))
        mine = torch.stack([parts_5 for _, parts_5 in found]).sum(0)
        stop = mine.new_tensor([self._stop.is_set()])
        loss, clm_sum, fusion_sum, labelled, served, stops = self.accelerator.reduce(
            torch.cat([mine, stop]), "sum"
        ).tolist()
        sums = StepSums(loss / processes, clm_sum, fusion_sum, int(labelled), int(served), stops > 0)
        if not math.isfinite(sums.loss):
            bad = [name for documents, parts_5 in found if not parts_5.isfinite().all() for name in documents]
            raise WorkFailed(not_finite("loss", step, bad))
        return sums

    def _clipped_norm(self, step: int) -> float:
        norm_tensor = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        norm = (norm_tensor.full_tensor() if isinstance(norm_tensor, DTensor) else norm_tensor).item()
        if not math.isfinite(norm):
            windows = self.plan.step(step)[self.accelerator.process_index :: self.accelerator.num_processes]
            raise WorkFailed(not_finite("gradient", step, [e.doc_id for e in self.rows.read(windows)]))
        return norm

    def _seed(self, step: int) -> None:
        """Seed dropout anew for each step and process, so that generators are no state that must be saved."""
        text = f"{self.settings.seed}/{step}/{self.accelerator.process_index}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big"))

    def _resume(self) -> int:
        """Load the latest good checkpoint and return its step; 0 if there is none."""
        found: list[Checkpoint | None] = [None]
        if self.accelerator.is_main_process:
            self.config.checkpoints.mkdir(parents=True, exist_ok=True)
            remove_scratch(self.config.checkpoints)
            found = [latest_checkpoint(self.config.checkpoints, self.config.key, self._say)]
        broadcast_object_list(found)
        if found[0] is None:
            self._say(f"training {len(self.plan)} steps on {len(self.rows.lengths)} sequences")
            return 0
        load_checkpoint(found[0], self.model, self.optimizer)
        self._say(f"resuming after step {found[0].step} of {len(self.plan)}")
        return found[0].step

    def _save(self) -> None:
        state = {"step": self.done, "epoch": self.plan.epoch(self.done), "key": self.config.key}
        save_checkpoint(
            self.config.checkpoints,
            {**state, "steps": len(self.plan), "processes": self.accelerator.num_processes},
            self.model,
            self.optimizer,
            keep=self.config.keep_checkpoints,
            writes=self.accelerator.is_main_process,
        )
        self._say(f"saved step {self.done}")

    def _export(self) -> None:
        weights = {}
        for name, tensor in model_tensors(self.model):
            if self.accelerator.is_main_process:
                weights[name] = tensor
        if self.accelerator.is_main_process:
            export_model(
                self.model,
                self.config.model,
                self.config.out,
                self.config.card,
                weights=weights,
                dtype=original_dtype(self.config.model),
            )
            self._say(f"exported the model to {self.config.out}")
        self.accelerator.wait_for_everyone()
