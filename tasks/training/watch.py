"""What process 0 tells of a training run while it goes on: metrics.jsonl, lines for people, boards."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from logitfuse.tasks.training.boards import Board, TensorBoard, WeightsAndBiases
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.flops import StepFlops, peak_flops
from logitfuse.tasks.training.metrics import MetricsFile, read_metrics
from logitfuse.tasks.training.report import held_out_line, progress_line

SECONDS_BETWEEN_LINES = 10.0  # at first; in a run of days a line every five minutes is enough
MOST_SECONDS_BETWEEN_LINES = 300.0
STEPS_OF_PACE = 50  # over which the time left is estimated


class Watch:
    """Writes down every step, and says one now and then."""

    def __init__(
        self,
        config: WorkerConfig,
        done: int,
        model: PreTrainedModel,
        device: torch.device,
        processes: int,
        say: Callable[[str], None],
    ) -> None:
        """Go on after `done` steps; raises `BadInput` where a board that is asked for is not installed."""
        self._say, self._device = say, device
        self._flops = StepFlops(model)
        peak = peak_flops(device, config.settings.dtype, config.watch.peak_tflops)
        self._peak = peak and peak * processes
        self._metrics = MetricsFile(config.metrics, done)
        self._boards = _boards(config, say)
        self._paces: deque[float] = deque(maxlen=STEPS_OF_PACE)
        self._began = self._last = time.monotonic()
        self._said = 0.0

    def record(self, line: dict[str, Any], lengths: NDArray[np.int32]) -> None:
        """Take note of a step: its line, with `seconds`, and the lengths of its sequences over all processes."""
        line = line | self._measured(line, lengths)
        self._metrics.write(line)
        for board in self._boards:
            board.write(line)
        if "held_out" in line:
            self._say(held_out_line(line))
        if line["step"] == line["steps"] or self._last - self._said > self._pause():
            self._said = self._last
            self._say(progress_line(line))

    def _pause(self) -> float:
        longer = (self._last - self._began) / 60
        return min(max(SECONDS_BETWEEN_LINES, longer), MOST_SECONDS_BETWEEN_LINES)

    def _measured(self, line: dict[str, Any], lengths: NDArray[np.int32]) -> dict[str, Any]:
        """Return what may differ from run to run, `metrics.MEASURED`."""
        now = time.monotonic()
        self._paces.append(now - self._last)  # looks at held-out text and checkpoints take time too
        self._last = now
        left = (line["steps"] - line["step"]) * sum(self._paces) / len(self._paces)
        rate = self._flops.of(lengths) / line["seconds"]
        return {
            "tokens_per_s": line["tokens"] / line["seconds"],
            "mfu": rate / self._peak if self._peak else None,
            "peak_memory_gb": round(peak_memory(self._device) / 1e9, 3),
            "seconds_left": round(left, 1),
            "time": round(time.time(), 3),
        }

    def close(self) -> None:
        """Let the boards send what they hold."""
        for board in self._boards:
            board.close()


def peak_memory(device: torch.device) -> int:
    """Return the most bytes this process has held so far, on its GPU or, without one, altogether."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _boards(config: WorkerConfig, say: Callable[[str], None]) -> list[Board]:
    watch, found = config.watch, list[Board]()
    if watch.tensorboard is not None:
        found.append(TensorBoard(watch.tensorboard, read_metrics(config.metrics)))
    if watch.wandb:
        folder, settings = config.metrics.parent, config.settings.model_dump(mode="json")
        found.append(WeightsAndBiases(watch.wandb, watch.wandb_run, config.key, folder, settings, say))
    return found
