"""A picture of a training run that still goes on, for whoever watches it from afar: the report's curves so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from logitfuse.tasks.reporting.curves import held_out_looks, thinned
from logitfuse.tasks.reporting.summary_plot import training_plot


def live_plot(lines: Sequence[dict[str, Any]], model: str = "fused") -> bytes | None:
    """Return a PNG of a model's losses so far, and of the held-out sample where it was looked at; None of nothing."""
    told = {"curve": thinned(list(lines)), "held_out": held_out_looks(list(lines))}
    return training_plot({"training": {model: told}})
