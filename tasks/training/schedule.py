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
    """Return λ of step `step` (from 0) of `steps`.

    constant; to_one, the published decay of fusion, which comes near 1 but not to it; linear and cosine, whose last
    step has the λ at the end. With `reward` λ is each sequence's own and this is not used.
    """
    start, kind = settings.clm_weight, settings.clm_weight_schedule
    if kind == "to_one":
        return start + (1 - start) * step / max(1, steps)
    if kind not in ("linear", "cosine"):
        return start
    progress = step / max(1, steps - 1)
    if kind == "cosine":
        progress = 0.5 * (1 - math.cos(math.pi * progress))
    return start + (settings.clm_weight_end - start) * progress
