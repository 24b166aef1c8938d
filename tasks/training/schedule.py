"""The learning rate of a step, from its number alone, so that nothing about it needs saving."""

from __future__ import annotations

import math

from logitfuse.tasks.training.settings import TrainSettings


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Return the rate of step `step` (from 0) of `steps`: a linear warm-up, then the schedule."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
