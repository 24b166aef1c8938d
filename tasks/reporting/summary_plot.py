"""A finished run in three pictures, for whoever looks at it from afar: the report's own plots on white."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from logitfuse.tasks.reporting.curve_plots import CURVES, draw_curve, points_of
from logitfuse.tasks.reporting.marks import models_of, shortened
from logitfuse.tasks.reporting.palette import Palette
from logitfuse.tasks.reporting.plots import (
    compared_rows,
    domain_rows,
    draw_gains,
    draw_levels,
    drawn_domains,
    drawn_height,
    has_interval,
    mark_colours,
)
from logitfuse.tasks.reporting.svg import picture, png
from logitfuse.tasks.reporting.tables import winner_rows
from logitfuse.tasks.results import MEAN

WIDTH, INCHES_PER_DOMAIN = 10.5, 0.36
HOW_TO_READ = "right of 0 it is better; filled: certain, hollow: may be chance"
STRONGEST = 0.45  # of the sources' colour, in the cell of a source that won everywhere


def summary_plot(facts: dict[str, Any]) -> bytes:
    """Return a PNG of a report's gains by domain, and of who won where."""
    gains = compared_rows(facts)
    domains = drawn_domains(facts) or [MEAN]
    panels = len({row["role"] for row in gains})
    with picture("summary") as palette:
        figure = Figure(figsize=(WIDTH, 1.3 + INCHES_PER_DOMAIN * max(len(domains), 3)), layout="constrained")
        axes = figure.subplots(1, panels + 1, sharey=True, squeeze=False, width_ratios=[1.0] * panels + [2.0])[0]
        draw_gains(list(axes[:panels]), gains, domains, palette)
        if panels:
            axes[0].set_title(f"What fusing gained, in % of the loss\n{HOW_TO_READ}", fontsize=11, loc="left")
        else:
            domain_rows(axes[0], domains, palette)
        _draw_winners(axes[-1], facts, domains, palette)
        return png(figure)


def levels_picture(facts: dict[str, Any]) -> bytes | None:
    """Return a PNG of each model's held-out loss by domain; None where nothing was measured."""
    rows = [row for row in facts["results"] if has_interval(row)]
    if not rows:
        return None
    models, domains = models_of(facts["results"]), drawn_domains(facts)
    with picture("levels") as palette:
        figure = Figure(figsize=(WIDTH, 0.6 + drawn_height(models, domains)), layout="constrained")
        axes = figure.subplots()
        draw_levels(axes, facts["results"], domains, palette)
        axes.set_title("Each model's held-out loss, with 95% intervals", fontsize=11, loc="left")
        figure.legend(
            handles=[_mark(model, palette) for model in models], loc="outside lower center", ncols=4, frameon=False
        )
        return png(figure)


def _mark(model: dict[str, Any], palette: Palette) -> Line2D:
    """Return what a legend shows of a model: its mark, its name and what it is."""
    colour, fill = mark_colours(model, palette)
    name = shortened(model["model"]) + (f" ({model['called']})" if model["called"] else "")
    return Line2D([], [], marker=model["marker"], color=colour, markerfacecolor=fill, linestyle="", label=name)


def training_plot(facts: dict[str, Any]) -> bytes | None:
    """Return a PNG of the training curves of all models; None where nothing was recorded."""
    curves = {curve: arms for curve in CURVES if (arms := points_of(facts, curve))}
    if not curves:
        return None
    with picture("training") as palette:
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        for axes, (curve, arms) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
            title, unit = CURVES[curve]
            draw_curve(axes, arms, unit, palette)
            axes.set_title(title, fontsize=11, loc="left")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        return png(figure)


def _draw_winners(axes: Axes, facts: dict[str, Any], domains: list[str], palette: Palette) -> None:
    """Draw the shares of tokens that each source won as a heat map with its numbers."""
    labels = list(facts["fusion"]["weights"])
    rows = {row["domain"]: row["cells"] for row in winner_rows(facts)["by_domain"]}
    shade = LinearSegmentedColormap.from_list("won", [palette.card, palette.source])
    axes.grid(visible=False)
    axes.set_title("Who won where, in % of the tokens", fontsize=11, loc="left")
    axes.set_xticks(range(len(labels)), [shortened(label) for label in labels])
    axes.xaxis.set_tick_params(labelcolor=palette.ink)
    axes.set_xlim(-0.5, max(len(labels), 1) - 0.5)
    for y, domain in enumerate(domains):
        for x, cell in enumerate(rows.get(domain, [])):
            colour = shade(STRONGEST * cell["share"])
            axes.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=colour, linewidth=0)
            axes.text(x, y, f"{100 * cell['share']:.0f}", ha="center", va="center", color=palette.ink)
