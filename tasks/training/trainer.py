"""The training loop: every step reads what the plan says, and nothing but step number and tensors is its state."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.tensor import DTensor

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.bad_steps import STATE as BAD_STEPS
from logitfuse.tasks.training.bad_steps import BadSteps, Found
from logitfuse.tasks.training.batch import collate
from logitfuse.tasks.training.checkpoint import (
    STATE_FILE,
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    remove_scratch,
    save_checkpoint,
)
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.export import export_trained
from logitfuse.tasks.training.freed_memory import give_back_freed
from logitfuse.tasks.training.held_out import held_out
from logitfuse.tasks.training.loading import load_model, make_optimizer, settle, verify_shards
from logitfuse.tasks.training.objective import Objective
from logitfuse.tasks.training.plan import StepPlan
from logitfuse.tasks.training.read_ahead import ReadAhead
from logitfuse.tasks.training.report import StepSums, step_line
from logitfuse.tasks.training.schedule import clm_weight, learning_rate
from logitfuse.tasks.training.sharding import gradients_shared, join_processes, spread, spread_of, wants_sharding
from logitfuse.tasks.training.tensors import model_tensors
from logitfuse.tasks.training.text_rows import training_rows
from logitfuse.tasks.training.watch import Watch


class Stopped(Exception):
    """Training was asked to stop; a checkpoint holds all that was done."""


class Trainer:
    """One training run in one of its processes."""

    def __init__(self, config: WorkerConfig, stop: threading.Event, say: Callable[[str], None]) -> None:
        """Load data, model and the latest checkpoint. `stop` may be set at any time; `say` gets lines for people."""
        self.config, self.settings = config, config.settings
        self.accelerator = join_processes(config)
        self._say = say if self.accelerator.is_main_process else (lambda line: None)
        self._stop = stop
        if self.accelerator.is_local_main_process:
            verify_shards(config)
        self.accelerator.wait_for_everyone()
        self.model = load_model(config)
        sharded = wants_sharding(config)
        if not (sharded and self.accelerator.num_processes > 1):  # sharding moves each part as it is cut
            self.model.to(self.accelerator.device)
        objective = Objective(self.model, self.settings, self.accelerator.device)
        self.batching = objective.batching
        self._say(self.batching.why)
        settle(self.model, self.settings, packed=self.batching.packed)
        self.rows = training_rows(config, self.model.get_output_embeddings().weight.shape[0])
        self.plan = StepPlan(self.rows.lengths, self.rows.groups, self.settings, packed=self.batching.packed)
        self.batches = ReadAhead(
            lambda step: self.plan.micro_batches(step, self.accelerator.process_index, self.accelerator.num_processes),
            len(self.plan),
            lambda windows: collate(self.rows.read(windows), packed=self.batching.packed),
        )
        self.objective = spread(objective, self.accelerator, sharded=sharded, dtype=self.settings.dtype)
        self.optimizer = make_optimizer(self.model, self.settings)
        self.bad_steps = BadSteps(self.settings, self.accelerator, self._say)
        self.held_out = held_out(config, self.accelerator, packed=self.batching.packed)
        self.done = self._resume()

    def train(self) -> None:
        """Do the steps that are missing and export the model; raise `Stopped` if asked to stop before the end."""
        self.objective.train()
        with self._watched() as record:
            for step in range(self.done, len(self.plan)):
                line, stop = self._step(step)
                self.done = step + 1
                record(self._looked_at(line))
                if self.done < len(self.plan) and (stop or self.done % self.config.checkpoint_every_steps == 0):
                    self._save()
                if stop and self.done < len(self.plan):
                    self.batches.forget()  # or leaving would wait for what is being read
                    raise Stopped(f"stopped after step {self.done} of {len(self.plan)}, which is saved")
        self._export()

    @contextmanager
    def _watched(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yield what takes note of each step's line; it does nothing but in process 0."""
        if not self.accelerator.is_main_process:
            yield lambda line: None
            return
        device, processes = self.accelerator.device, self.accelerator.num_processes
        watch = Watch(self.config, self.done, self.model, device, processes, self._say)
        try:
            yield lambda line: watch.record(line, self.rows.lengths[self.plan.step(line["step"] - 1)])
        finally:
            watch.close()

    def _looked_at(self, line: dict[str, Any]) -> dict[str, Any]:
        """Add how the model now predicts the held-out sample, where its turn has come, and at the end."""
        every = self.config.watch.evaluate_every_steps
        if self.held_out is None or not every or (line["step"] % every and line["step"] < len(self.plan)):
            return line
        return {**line, "held_out": self.held_out.nats_per_byte(self.objective)}

    def _step(self, step: int) -> tuple[dict[str, Any], bool]:
        """Do one optimiser step; return its line of metrics, and whether any process was asked to stop."""
        began = time.monotonic()
        self._seed(step)
        rate = learning_rate(step, len(self.plan), self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums, found = self._accumulate(step)
        norm, left_out = self._clipped_norm(), {}
        if wrong := self.bad_steps.judge(sums.loss, norm):
            left_out = self.bad_steps.leave_out(step, wrong, found, self.model, self._save_before)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        weight = clm_weight(step, len(self.plan), self.settings)
        line = step_line(
            sums,
            step,
            len(self.plan),
            epoch=self.plan.epoch(step),
            grad_norm=norm,
            learning_rate=rate,
            clm_weight=weight,
        )
        return {**line, **left_out, "seconds": time.monotonic() - began}, sums.stop

    def _accumulate(self, step: int) -> tuple[StepSums, Found]:
        """Sum the gradients of a step's sequences and return their losses over all processes, and here by batch."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        last = len(self.plan.micro_batches(step, rank, processes)) - 1
        # Gradients are averaged over processes, the loss is a sum over them.
        per_sequence = self.settings.weighting == "sequence"
        normaliser = (len(self.plan.step(step)) if per_sequence else self.plan.tokens(step)) / processes
        weight = clm_weight(step, len(self.plan), self.settings)
        found: list[tuple[tuple[str, ...], Tensor]] = []
        for number, batch_read in enumerate(self.batches.step(step)):
            batch = batch_read.to(self.accelerator.device)
            with gradients_shared(self.objective, number == last):
                parts = self.objective(*batch[:4], normaliser, weight, batch.lengths, batch.scores_DS)
                parts.loss.backward()
            if self.accelerator.device.type == "cpu":
                give_back_freed()
            found.append((batch.documents, torch.stack([part.detach().double() for part in parts])))
        mine = torch.stack([parts_5 for _, parts_5 in found]).sum(0)
        stop = mine.new_tensor([self._stop.is_set()])
        loss, clm_sum, fusion_sum, labelled, served, stops = self.accelerator.reduce(
            torch.cat([mine, stop]), "sum"
        ).tolist()
        return StepSums(loss / processes, clm_sum, fusion_sum, int(labelled), int(served), stops > 0), found

    def _clipped_norm(self) -> float:
        norm_tensor = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        return (norm_tensor.full_tensor() if isinstance(norm_tensor, DTensor) else norm_tensor).item()

    def _save_before(self) -> Path | None:
        """Save the state before a bad step; return where, None if nothing was trained yet."""
        if not self.done:
            return None
        self._save()
        return self.config.checkpoints / f"checkpoint-{self.done:08d}"

    def _seed(self, step: int) -> None:
        """Seed dropout anew for each step and process, so that generators are no state that must be saved."""
        text = f"{self.settings.seed}/{step}/{self.accelerator.process_index}"
        torch.manual_seed(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big"))

    def _resume(self) -> int:
        """Load the latest good checkpoint and return its step; 0 if there is none."""
        found: list[tuple[Checkpoint | None, str]] = [(None, self.config.key)]
        if self.accelerator.is_main_process:
            self.config.checkpoints.mkdir(parents=True, exist_ok=True)
            remove_scratch(self.config.checkpoints)
            found = [(latest_checkpoint(self.config.checkpoints, self.config.key, self._say), self.config.key)]
        broadcast_object_list(found)
        checkpoint, key = found[0]
        if key != self.config.key:
            raise BadInput(f"this host trains run {self.config.key}, process 0 run {key}: start all with one recipe.")
        how = spread_of(self.objective, self.accelerator.num_processes)
        if checkpoint is None:
            self._say(f"training {len(self.plan)} steps on {len(self.rows.lengths)} sequences, {how}")
            return 0
        load_checkpoint(checkpoint, self.model, self.optimizer)
        self.bad_steps.restore(checkpoint.folder / STATE_FILE, checkpoint.step, self.optimizer)
        self._say(f"resuming after step {checkpoint.step} of {len(self.plan)}, {how}{self._regrouped(checkpoint)}")
        return checkpoint.step

    def _regrouped(self, checkpoint: Checkpoint) -> str:
        if checkpoint.processes == self.accelerator.num_processes:
            return ""
        return (
            f"; the checkpoint was written by {checkpoint.processes}. The same sequences go on in the same order, but "
            "their sums are rounded in another one, so the model will not be the undisturbed one to the bit"
        )

    def _save(self) -> None:
        state = {"step": self.done, "epoch": self.plan.epoch(self.done), "key": self.config.key}
        save_checkpoint(
            self.config.checkpoints,
            {
                **state,
                BAD_STEPS: self.bad_steps.state(),
                "steps": len(self.plan),
                "processes": self.accelerator.num_processes,
                "spread": spread_of(self.objective, self.accelerator.num_processes),
            },
            self.model,
            self.optimizer,
            keep=self.config.keep_checkpoints,
            writes=self.accelerator.is_main_process,
        )
        self._say(f"saved step {self.done}")

    def _export(self) -> None:
        if self.config.checkpoint_at_end:
            self._save()
        weights = {}
        # Of LoRA's model only the adapters; frozen embeddings belong to the whole model.
        for name, tensor in model_tensors(self.model, frozen=self.settings.lora is None):
            if self.accelerator.is_main_process:
                weights[name] = tensor
        if self.accelerator.is_main_process:
            export_trained(self.config, self.model, weights)
            self._say("exported the model")  # to scratch; its name is its record's affair
        self.accelerator.wait_for_everyone()
