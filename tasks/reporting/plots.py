"""Drawings of the result: how good each model is, and what fusing gained, by domain."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from logitfuse.tasks.reporting.gains import against
from logitfuse.tasks.reporting.marks import AGAINST, ROLES, all_text_first, models_of, shortened, shown_domain
from logitfuse.tasks.reporting.palette import Palette
from logitfuse.tasks.reporting.svg import drawing, inline_svg
from logitfuse.tasks.results import MEAN

WIDTH = 4.9  # inches; at 72 a line this stays legible on a phone
MOST_DOMAINS = 16  # that are drawn, those with most documents; the table has all
CHARACTERS = 25  # that fit below the panels together, beside the domains' names
VERDICT_COLOURS = {"better": "good", "worse": "bad", "unclear": "faint"}


def drawn_domains(facts: dict[str, Any]) -> list[str]:
    """Return the domains that are drawn, all text first."""
    counts = {row["domain"]: row["documents"] for row in facts["results"] if row["domain"] != MEAN}
    most = set(sorted(counts, key=lambda domain: -counts[domain])[:MOST_DOMAINS])
    return all_text_first([row["domain"] for row in facts["results"] if row["domain"] in {*most, MEAN}])


def levels_plot(facts: dict[str, Any]) -> str:
    """Draw nats per byte of every model in every domain, with intervals."""
    rows, models, domains = facts["results"], models_of(facts["results"]), drawn_domains(facts)
    if not rows:
        return ""
    with drawing("levels") as palette:
        figure = Figure(figsize=(WIDTH, drawn_height(models, domains)), layout="constrained")
        draw_levels(figure.subplots(), rows, domains, palette)
        said = "; ".join(
            f"{r['model']} {r['nats_per_byte']:.3f}" for r in rows if has_interval(r) and r["domain"] == MEAN
        )
        return inline_svg(figure, "levels", f"Held-out nats per byte of each model by domain. All text: {said}.")


def draw_levels(axes: Axes, rows: list[dict[str, Any]], domains: list[str], palette: Palette) -> None:
    """Draw a row per domain with a mark and an interval for every model that has one there."""
    models = models_of(rows)
    domain_rows(axes, domains, palette)
    for at, model in enumerate(models):
        offset = (at - (len(models) - 1) / 2) * 0.72 / max(len(models), 1)
        colour, fill = mark_colours(model, palette)
        for row in (r for r in rows if (r["model"], r["role"]) == (model["model"], model["role"])):
            if row["domain"] in domains and has_interval(row):
                y = domains.index(row["domain"]) + offset
                _interval(axes, y, (row["low"], row["nats_per_byte"], row["high"]), model["marker"], colour, fill)
    axes.set_xlabel("nats per byte, lower is better")


def mark_colours(model: dict[str, Any], palette: Palette) -> tuple[str, str]:
    """Return the colour of a model's mark and what it is filled with: the target's, as it came, is hollow."""
    colour = getattr(palette, model["colour"])
    return colour, palette.card if model["role"] == "target" else colour


def gains_plot(facts: dict[str, Any]) -> str:
    """Draw by how much the fused model is better than control and target in every domain, with paired intervals."""
    rows = compared_rows(facts)
    if not rows:
        return ""
    domains = drawn_domains(facts)
    with drawing("gains") as palette:
        figure = Figure(figsize=(WIDTH, drawn_height(models_of(facts["results"]), domains)), layout="constrained")
        panels = figure.subplots(1, len({row["role"] for row in rows}), sharey=True, squeeze=False)[0]
        draw_gains(list(panels), rows, domains, palette)
        said = "; ".join(f"{against(r, AGAINST[r['role']])} ({r['verdict']})" for r in rows if r["domain"] == MEAN)
        alt = f"By how many percent the fused model's loss is lower, by domain. Over all text it is {said}."
        return inline_svg(figure, "gains", alt)


def compared_rows(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the gains that are drawn: against the control, then against the target as it came."""
    rows = [row for row in facts["gains"] if row["role"] in AGAINST and row["percent_low"] is not None]
    return sorted(rows, key=lambda row: row["role"])


def draw_gains(panels: list[Axes], rows: list[dict[str, Any]], domains: list[str], palette: Palette) -> None:
    """Draw a panel per comparison, each with a scale of its own: what sources add is often much the smaller gain.

    A filled mark is certain: its interval does not hold zero.
    """
    for axes, role in zip(panels, dict.fromkeys(row["role"] for row in rows), strict=True):
        domain_rows(axes, domains, palette)
        axes.axvline(0, color=palette.faint, linewidth=1.4)
        for row in (row for row in rows if row["role"] == role and row["domain"] in domains):
            colour = getattr(palette, VERDICT_COLOURS[row["verdict"]])
            fill = palette.card if row["verdict"] == "unclear" else colour
            values = row["percent_low"], row["percent"], row["percent_high"]
            _interval(axes, domains.index(row["domain"]), values, ROLES[role][0], colour, fill)
        axes.set_xlabel(f"% against {AGAINST[role]}")
        axes.margins(x=0.12)
        _few_ticks(axes, CHARACTERS // len(panels))


def _few_ticks(axes: Axes, characters: int) -> None:
    """Put as many ticks as have room for their numbers, four at most; tiny numbers are long and get fewer."""
    low, high = axes.get_xlim()
    for most in (4, 3, 2, 1):
        ticks = [tick for tick in MaxNLocator(nbins=most).tick_values(low, high) if low <= tick <= high]
        labels = [f"{tick:.6g}".replace("-", "−") for tick in ticks]
        room = [characters * (b - a) / (high - low) for a, b in pairwise(ticks)]
        needed = [(len(a) + len(b)) / 2 + 1 for a, b in pairwise(labels)]
        if all(has >= needs for has, needs in zip(room, needed, strict=True)):
            break
    else:
        ticks, labels = ticks[:1], labels[:1]
    axes.set_xticks(ticks, labels)


def domain_rows(axes: Axes, domains: list[str], palette: Palette) -> None:
    """Give each domain a row, every other one shaded."""
    axes.set_ylim(len(domains) - 0.45, -0.55)
    axes.set_yticks(range(len(domains)), [shortened(shown_domain(domain)) for domain in domains])
    axes.grid(axis="y", visible=False)
    for at in range(0, len(domains), 2):
        axes.axhspan(at - 0.5, at + 0.5, color=palette.faint, alpha=0.07, linewidth=0)


def drawn_height(models: list[dict[str, Any]], domains: list[str]) -> float:
    """Return the inches of both drawings: where they stand side by side a domain's rows lie on one line."""
    return 0.75 + max(0.12 * len(models) + 0.16, 0.5) * max(len(domains), 2)


def has_interval(row: dict[str, Any]) -> bool:
    """Say whether a row's number is known with its interval."""
    return row["low"] is not None and row["high"] is not None


def _interval(axes: Axes, y: float, values: tuple[float, float, float], marker: str, colour: str, fill: str) -> None:
    low, value, high = values
    axes.hlines(y, low, high, color=colour, linewidth=1.8)
    axes.plot(value, y, marker=marker, markersize=6.5, color=colour, markerfacecolor=fill, markeredgewidth=1.6)
