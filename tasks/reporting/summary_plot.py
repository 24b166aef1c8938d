"""A finished run in one picture, for whoever looks at it from afar: what fusing gained, and who won where."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from logitfuse.tasks.reporting.plots import shown_domain
from logitfuse.tasks.results import MEAN

WIDTH, INCHES_PER_DOMAIN, DOTS_PER_INCH = 10.5, 0.34, 80
COLOURS = ("#2563a8", "#c2571a", "#3f8f4f", "#8a4fa3", "#a88a1f", "#5b6b7a")
AGAINST = {"target": ("o", "#5b6b7a", -0.14), "control": ("D", "#2563a8", 0.14)}  # marker, colour, offset


def summary_plot(facts: dict[str, Any]) -> bytes:
    """Return a PNG of a report's gains and of the sources' shares, by domain."""
    gains = [row for row in facts["gains"] if row["role"] in AGAINST and row["percent_low"] is not None]
    shares = {domain: told["weights"] for domain, told in facts["fusion"]["by_domain"].items()}
    shares |= {MEAN: facts["fusion"]["weights"]}
    domains = [*sorted({*(row["domain"] for row in gains), *shares} - {MEAN}), MEAN]
    figure = Figure(figsize=(WIDTH, 1.3 + INCHES_PER_DOMAIN * max(len(domains), 3)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_gains(left, gains, domains)
    _draw_shares(right, shares, domains)
    left.set_ylim(len(domains) - 0.5, -0.5)
    left.set_yticks(range(len(domains)), [shown_domain(domain) for domain in domains], fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    return stream.getvalue()


def _draw_gains(axes: Axes, gains: list[dict[str, Any]], domains: list[str]) -> None:
    axes.axvline(0, color="#999999", linewidth=1)
    for role, (marker, colour, offset) in AGAINST.items():
        rows = [row for row in gains if row["role"] == role]
        at = [domains.index(row["domain"]) + offset for row in rows]
        axes.hlines(
            at, [r["percent_low"] for r in rows], [r["percent_high"] for r in rows], color=colour, linewidth=1.6
        )
        if rows:
            axes.plot([r["percent"] for r in rows], at, marker, color=colour, markersize=5, label=f"than the {role}")
    axes.set_title("held-out loss of the fused model, % lower", fontsize=10)
    _finish(axes)


def _draw_shares(axes: Axes, shares: dict[str, dict[str, float]], domains: list[str]) -> None:
    labels = list(dict.fromkeys(label for weights in shares.values() for label in weights))
    at = [domains.index(domain) for domain in shares]
    before = [0.0] * len(at)
    for number, label in enumerate(labels):
        percents = [100 * weights.get(label, 0.0) for weights in shares.values()]
        axes.barh(at, percents, left=before, color=COLOURS[number % len(COLOURS)], label=label, height=0.62)
        before = [one + other for one, other in zip(before, percents, strict=True)]
    axes.set_title("whose predictions the fused targets are, %", fontsize=10)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
