"""Drawings of training: the loss on the text, the loss against the fused predictions, and the held-out sample."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from logitfuse.tasks.reporting.marks import ROLES, role_of_arm
from logitfuse.tasks.reporting.palette import Palette
from logitfuse.tasks.reporting.plots import WIDTH
from logitfuse.tasks.reporting.svg import drawing, inline_svg

CURVES = {  # name: title, unit
    "clm_loss": ("Loss on the text", "nats per token"),
    "fusion_loss": ("Loss against the sources", "nats per token"),
    "held_out": ("Loss on held-out text", "nats per byte"),
}
LEAST_RANGE = 0.005  # of the loss, from the bottom of a drawing to its top: what differs by less looks equal
FEW_POINTS = 30  # are marked one by one
Points = list[tuple[float, float]]


def points_of(facts: dict[str, Any], curve: str) -> dict[str, Points]:
    """Return (tokens seen, loss) of each trained model; models without this curve are left out."""
    found: dict[str, Points] = {}
    for arm, told in facts["training"].items():
        if curve == "held_out":
            looks = told.get("held_out", [])
            points = [(look["tokens_seen"], look["mean"]) for look in looks if look.get("mean") is not None]
        else:
            points = [(p["tokens_seen"], p[curve]) for p in told["curve"] if p.get(curve) is not None]
        if points:
            found[arm] = points
    return found


def curve_plot(facts: dict[str, Any], curve: str) -> str:
    """Draw one curve of all trained models over the tokens seen; an empty string where nothing was recorded."""
    arms = points_of(facts, curve)
    if not arms:
        return ""
    title, unit = CURVES[curve]
    with drawing(curve) as palette:
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        draw_curve(figure.subplots(), arms, unit, palette)
        ends = "; ".join(f"{arm} ends at {points[-1][1]:.3f}" for arm, points in arms.items())
        return inline_svg(figure, curve.replace("_", "-"), f"{title} while training, {unit}: {ends}.")


def draw_curve(axes: Axes, arms: dict[str, Points], unit: str, palette: Palette) -> None:
    """Draw all models' curves, the control's first and broad: it is seen behind a fused one that does the same."""
    for arm in sorted(arms):
        marker, _, colour = ROLES[role_of_arm(arm)]
        broad, dotted = (len(arms) > 1 and role_of_arm(arm) == role for role in ("control", "pair"))
        style: dict[str, Any] = {"linewidth": 5.0, "alpha": 0.55} if broad else {"linewidth": 1.8}
        style |= {"linestyle": ":"} if dotted else {}
        tokens, values = zip(*arms[arm], strict=True)
        marker = marker if len(values) <= FEW_POINTS else ""
        axes.plot(tokens, values, color=getattr(palette, colour), marker=marker, markersize=4.5, label=arm, **style)
    axes.set_xlabel("tokens seen")
    axes.set_ylabel(unit)
    axes.margins(x=0.03)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    axes.yaxis.set_tick_params(labelcolor=palette.faint)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    low, high = axes.get_ylim()
    middle, half = (low + high) / 2, LEAST_RANGE * abs(low + high) / 4
    if high - low < 2 * half:
        axes.set_ylim(middle - half, middle + half)


def _thousands(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
