"""What a step has to tell: its line of metrics, a line for people, and what was wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

NAMED_DOCUMENTS = 8
LONG = 24 * 3600


class StepSums(NamedTuple):
    """What one step's sequences add up to over all processes."""

    loss: float  # Σ / normaliser: what was optimised
    clm_sum: float
    fusion_sum: float
    labelled: int
    served: int
    stop: bool  # a process was asked to stop


def step_line(
    sums: StepSums,
    step: int,
    steps: int,
    *,
    epoch: int,
    grad_norm: float,
    learning_rate: float,
    clm_weight: float,
) -> dict[str, Any]:
    """Return the metrics of step `step` (from 0; lines count from 1). Losses are nats per position they are about."""
    return {
        "step": step + 1,
        "steps": steps,
        "epoch": epoch,
        "loss": sums.loss,
        "clm_loss": sums.clm_sum / sums.labelled if sums.labelled else None,
        "fusion_loss": sums.fusion_sum / sums.served if sums.served else None,
        "clm_sum": sums.clm_sum,
        "fusion_sum": sums.fusion_sum,
        "tokens": sums.labelled,
        "served": sums.served,
        "served_share": sums.served / sums.labelled if sums.labelled else 0.0,
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "clm_weight": clm_weight,
    }


def progress_line(line: dict[str, Any]) -> str:
    """Say a line of metrics in words."""
    if "skipped" in line:
        return f"step {line['step']}/{line['steps']}: left out, {line['skipped']}"
    parts = [f"loss {line['loss']:.4f} ({_losses(line)})", f"gradient {line['grad_norm']:.3g}"]
    parts += [f"rate {line['learning_rate']:.2e}", f"{line['tokens_per_s']:,.0f} tokens/s"]
    if line.get("mfu") is not None:
        parts.append(f"MFU {line['mfu']:.1%}")
    if line.get("peak_memory_gb") is not None:
        parts.append(f"{line['peak_memory_gb']:.1f} GB")
    if line.get("seconds_left"):
        parts.append(f"{duration(line['seconds_left'])} left")
    return f"step {line['step']}/{line['steps']}: {', '.join(parts)}"


def held_out_line(line: dict[str, Any]) -> str:
    """Say in words how a model in training predicts the held-out sample."""
    domains = dict(line["held_out"])
    mean = domains.pop("mean")
    each = (
        f" ({', '.join(f'{domain} {_nats(value)}' for domain, value in domains.items())})" if len(domains) > 1 else ""
    )
    return f"step {line['step']}/{line['steps']}: held-out sample {_nats(mean)} nats per byte{each}"


def _nats(value: float | None) -> str:
    return "no finite number of" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _losses(line: dict[str, Any]) -> str:
    labels = f"labels {line['clm_loss']:.4f}" if line["clm_loss"] is not None else "no labels"
    if line["fusion_loss"] is None:
        return labels
    return f"{labels}, fusion {line['fusion_loss']:.4f} at {line['served_share']:.0%}"


def duration(seconds: float) -> str:
    """Say a time span by its two largest units: '3 d 4 h', '12 min 5 s'."""
    found: list[str] = []
    left = round(seconds)
    for size, unit in ((LONG, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if found or count or unit == "s":
            found.append(f"{count} {unit}")
        if len(found) == 2:
            break
    return " ".join(found)


def bad_step_message(
    step: int, wrong: str, documents: Sequence[str], saved: Path | None, *, broken: bool, in_a_row: int
) -> str:
    """Say why training stopped at a bad step (from 0), in which documents, what is saved, and what to do."""
    named = ", ".join(documents[:NAMED_DOCUMENTS])
    more = f" and {len(documents) - NAMED_DOCUMENTS} more" if len(documents) > NAMED_DOCUMENTS else ""
    said = f"step {step + 1}: {wrong}, so training stopped before it changed the model. Documents: {named}{more}."
    if broken:
        return (
            f"{said} The weights themselves are not finite numbers, so no data is to blame: a step before broke them, "
            "or the target model's folder is damaged. Nothing was saved; lower train.learning_rate, or set "
            "train.spike_factor and train.on_bad_step to skip."
        )
    kept = f" The state before it is saved: {saved}." if saved else " Nothing was trained before it."
    if in_a_row:
        advice = f"{in_a_row} steps before it were left out already, so this will not pass by itself: lower "
        return f"{said}{kept} {advice}train.learning_rate, or set train.dtype to fp32."
    return (
        f"{said}{kept} To go on from there without such steps, set train.on_bad_step to skip; to start over with "
        "another rate or precision, lower train.learning_rate or set train.dtype to fp32."
    )
