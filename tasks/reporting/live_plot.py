"""A picture of a training run that still goes on, for whoever watches it from afar."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from logitfuse.tasks.reporting.curves import thinned

PANELS = (("clm_loss", "loss on the text"), ("fusion_loss", "loss against the fused predictions"))
INCHES, DOTS_PER_INCH = (10.5, 3.0), 80
COLOUR = "#2563a8"


def live_plot(lines: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG of both losses by step and, where it was looked at, of the held-out sample's nats per byte."""
    looks = [(line["step"], line["held_out"]["mean"]) for line in lines if "held_out" in line]
    held_out = [(step, mean) for step, mean in looks if mean is not None]
    points = thinned(list(lines))
    figure = Figure(figsize=INCHES, layout="constrained")
    panels = figure.subplots(1, len(PANELS) + bool(held_out), squeeze=False)[0]
    for axes, (name, title) in zip(panels, PANELS, strict=False):
        _draw(axes, [(point["step"], point[name]) for point in points if point[name] is not None], title)
    if held_out:
        _draw(panels[-1], held_out, "held-out sample, nats per byte")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    return stream.getvalue()


def _draw(axes: Axes, points: Sequence[tuple[int, float]], title: str) -> None:
    axes.plot([step for step, _ in points], [value for _, value in points], color=COLOUR, linewidth=1.5)
    if len(points) <= 30:
        axes.plot([step for step, _ in points], [value for _, value in points], "o", color=COLOUR, markersize=3)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
