"""How much a training reads, and in how many steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from logitfuse.tasks.plan.amounts import Amounts
from logitfuse.tasks.plan.estimates import Estimate

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.training.adapt_settings import AdaptSettings
    from logitfuse.tasks.training.settings import TrainSettings


def trained_tokens(run: Run, amounts: Amounts) -> Estimate:
    """Return the tokens that an arm learns from: all of its epochs, or as many as its steps take."""
    train, whole = run.recipe.train, amounts.of("train/positions").times(run.recipe.train.epochs)
    if train.max_steps is None or not whole.value:
        return whole
    sequence = amounts.of("train/positions").value / max(1.0, amounts.of("train/sequences").value)
    each = train.sequences_per_step * sequence if train.sequences_per_step else float(train.tokens_per_step)
    return whole.times(min(1.0, train.max_steps * each / whole.value))


def training_steps(positions: float, sequences: float, settings: TrainSettings | AdaptSettings) -> int:
    """Return how many optimiser steps that makes: a step that is bound by tokens is short by half a sequence."""
    if settings.sequences_per_step:
        steps = math.ceil(sequences * settings.epochs / settings.sequences_per_step)
    else:
        mean = positions / max(sequences, 1)
        steps = math.ceil(positions * settings.epochs / max(settings.tokens_per_step - mean / 2, mean, 1.0))
    return min(steps, settings.max_steps) if settings.max_steps else steps
