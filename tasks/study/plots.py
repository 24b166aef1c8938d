"""Plots of a study as SVG files: contrasts with intervals, losses by domain, the token curve, headroom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from logitfuse.tasks.headroom_table import rules_out
from logitfuse.tasks.results import MEAN

Facts = dict[str, Any]
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "figure.facecolor": "white",  # GitHub shows pages on white and on black; plots stay on white
}
MOST_ROWS = 40  # of headroom that anybody reads
FAR = 4.0  # times the next largest difference
BETTER, WORSE, UNCLEAR = "#1a7f37", "#cf222e", "#6e7781"


def draw_plots(facts: Facts, folder: Path) -> list[str]:
    """Write the plots for which a study has numbers into a folder; return their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, make in PLOTS.items():
        with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": f"{facts['study']}-{name}"}):
            if (figure := make(facts)) is not None:
                file = f"{facts['study']}-{name}.svg"
                figure.savefig(
                    folder / file, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
                )
                found.append(file)
    return found


def plot_contrasts(facts: Facts) -> Figure | None:
    """Draw a line per contrast, of the locked split below that on which choices were made."""
    rows = [(f"{c['of']} − {c['against']} ({facts['split']})", c) for c in facts["contrasts"]]
    if facts["locked"]:
        rows += [(f"{c['of']} − {c['against']} ({facts['locked']['split']})", c) for c in facts["locked"]["contrasts"]]
    if not rows:
        return None
    figure, axes = _axes(len(rows))
    edge = _edge([row for _, row in rows])
    for y, (_, row) in enumerate(rows):
        colour = BETTER if row["high"] < 0 else WORSE if row["low"] > 0 else UNCLEAR
        if abs(row["delta"]) > edge:
            sign = 1 if row["delta"] > 0 else -1
            axes.plot([sign * edge], [y], ">" if sign > 0 else "<", color=colour)
            beside = "right" if sign > 0 else "left"
            axes.text(sign * edge * 0.93, y, f"{row['delta']:+.3f}", color=colour, ha=beside, va="center")
            continue
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2)
        axes.plot([row["delta"]], [y], "o", color=colour)
        axes.plot(row["by_seed"], [y] * len(row["by_seed"]), "|", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    _name_rows(axes, [name for name, _ in rows])
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("nats per byte; below zero the first is better; bars: 95%, ticks: seeds")
    return figure


def _edge(rows: list[Facts]) -> float:
    """Return how large a difference is drawn to scale: one far beyond all others would make points of them."""
    sizes = sorted(max(abs(row["low"]), abs(row["high"])) for row in rows)
    if len(sizes) < 2 or sizes[-1] <= FAR * sizes[-2]:
        return sizes[-1]
    return 1.2 * sizes[-2]


def plot_losses(facts: Facts) -> Figure | None:
    """Draw nats per byte of every variant by domain, seeds averaged."""
    losses = losses_by_variant(facts)
    if not losses:
        return None
    variants, domains = list(losses), list(next(iter(losses.values())))
    figure, axes = _axes(len(domains) * max(1, len(variants) // 4))
    for number, variant in enumerate(variants):
        shift = (number - (len(variants) - 1) / 2) * 0.7 / len(variants)
        values = [losses[variant][domain] for domain in domains]
        axes.plot(
            values,
            np.arange(len(domains)) + shift,
            "o",
            color=matplotlib.colormaps["tab20"](number % 20),
            label=variant,
        )
    _name_rows(axes, domains)
    axes.set_xlabel(f"nats per byte of {facts['split']} text (lower is better)")
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", frameon=False)
    return figure


def plot_tokens(facts: Facts) -> Figure | None:
    """Draw plain training's loss over its tokens, and where the other variant's loss lies."""
    found = facts["token_multiple"]
    if not found:
        return None
    figure, axes = _axes(6)
    points = found["plain"]
    axes.plot([p["tokens"] for p in points], [p["nats_per_byte"] for p in points], "o-", color=UNCLEAR, label="plain")
    axes.plot([found["tokens"]], [found["nats_per_byte"]], "s", color=BETTER, label=found["of"])
    axes.axhline(found["nats_per_byte"], color=BETTER, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    # By itself a log axis labels powers of ten, in a markup that SVG shows as it is written.
    ticks = sorted({point["tokens"] for point in points})
    axes.set_xticks(ticks, [f"{tokens:,.0f}" for tokens in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training tokens")
    axes.set_ylabel("nats per byte")
    axes.legend(frameon=False)
    return figure


def plot_headroom(facts: Facts) -> Figure | None:
    """Draw how the fused targets of every variant compare with the student, where they rule out no true token."""
    found = [(h["variant"], overall(h)) for h in facts["headroom"]]
    rows = [(name, row) for name, row in found if row and row["elsewhere"] is not None]
    if not rows:
        return None
    rows.sort(key=lambda pair: (not rules_out(pair[1]), -pair[1]["elsewhere"]))
    rows = rows[-MOST_ROWS:]  # the best
    figure, axes = _axes(len(rows))
    values = [row["elsewhere"] for _, row in rows]
    axes.barh(range(len(rows)), values, color=[_headroom_colour(row) for _, row in rows])
    axes.axvline(0, color="black", linewidth=0.8)
    _name_rows(axes, [f"{name} (∞ at {row['ruled_out']:.0%})" if rules_out(row) else name for name, row in rows])
    axes.set_xlabel("fused targets less student, nats of the true token (below zero is headroom)")
    return figure


def _headroom_colour(row: Facts) -> str:
    if rules_out(row):
        return UNCLEAR  # what is gained elsewhere does not make up for an infinite loss
    return BETTER if row["elsewhere"] < 0 else WORSE


PLOTS: dict[str, Callable[[Facts], Figure | None]] = {
    "contrasts": plot_contrasts,
    "losses": plot_losses,
    "tokens": plot_tokens,
    "headroom": plot_headroom,
}


def losses_by_variant(facts: Facts) -> dict[str, dict[str, float]]:
    """Return nats per byte by variant and domain, over its seeds; `mean` comes first."""
    runs: dict[str, list[dict[str, float]]] = {}
    for run in facts["runs"]:
        if run["nats_per_byte"]:
            runs.setdefault(run["variant"], []).append(run["nats_per_byte"])
    return {
        variant: {
            d: float(np.mean([losses[d] for losses in found])) for d in [MEAN, *(d for d in found[0] if d != MEAN)]
        }
        for variant, found in runs.items()
    }


def overall(headroom: Facts) -> Facts | None:
    """Return the row of a variant's headroom that sums everything."""
    return next((row for row in headroom["rows"] if row["domain"] == row["class"] == "all"), None)


def _axes(rows: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 1.1 + 0.32 * max(rows, 2)))
    return figure, figure.add_subplot()


def _name_rows(axes: Any, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
