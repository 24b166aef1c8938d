"""What a step has to tell: its line of metrics, a line for people, and what was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

NAMED_DOCUMENTS = 8


class StepSums(NamedTuple):
    """What one step's sequences add up to over all processes."""

    loss: float  # Σ / normaliser: what was optimised
    clm_sum: float
    fusion_sum: float
    labelled: int
    served: int
    stop: bool  # a process was asked to stop


def step_line(
    sums: StepSums, step: int, steps: int, *, epoch: int, grad_norm: float, learning_rate: float
) -> dict[str, Any]:
    """Return the metrics of step `step` (from 0; lines count from 1). Losses are nats per position they are about."""
    return {
        "step": step + 1,
        "steps": steps,
        "epoch": epoch,
        "loss": sums.loss,
        "clm_loss": sums.clm_sum / sums.labelled,
        "fusion_loss": sums.fusion_sum / sums.served if sums.served else None,
        "served_share": sums.served / sums.labelled,
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "tokens": sums.labelled,
    }


def progress_line(line: dict[str, Any]) -> str:
    """Say a line of metrics in words."""
    fusion = "" if line["fusion_loss"] is None else f", fusion {line['fusion_loss']:.4f}"
    return (
        f"step {line['step']}/{line['steps']}: loss {line['loss']:.4f} (labels {line['clm_loss']:.4f}{fusion}), "
        f"{line['tokens_per_s']:.0f} tokens/s"
    )


def not_finite(what: str, step: int, documents: Sequence[str]) -> str:
    """Say that a step's loss or gradient is no number, and in which documents."""
    named = ", ".join(documents[:NAMED_DOCUMENTS]) or "those of another process"
    more = f" and {len(documents) - NAMED_DOCUMENTS} more" if len(documents) > NAMED_DOCUMENTS else ""
    return (
        f"step {step + 1}: the {what} is not a finite number, so training stopped before this step changed the model. "
        f"Documents: {named}{more}. A lower learning rate or dtype fp32 often helps; checkpoints before it are kept."
    )
