"""The learning rate and λ of a step, from its number alone, so that nothing about them needs saving."""

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


def clm_weight(step: int, steps: int, settings: TrainSettings) -> float:
    """Return λ of step `step` (from 0) of `steps`: constant, or rising to 1 as fusion fades out."""
    if settings.clm_weight_schedule == "constant":
        return settings.clm_weight
    return settings.clm_weight + (1 - settings.clm_weight) * step / max(1, steps)
