"""The report as one HTML page that needs no network and no script."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from logitfuse.tasks.reporting.comparison import in_percent, pick
from logitfuse.tasks.reporting.headline import gained, what
from logitfuse.tasks.reporting.plots import (
    ROLES,
    curve_plot,
    gains_plot,
    levels_plot,
    models_of,
    role_of_arm,
    shown_domain,
)
from logitfuse.tasks.reporting.suites import suite_table
from logitfuse.tasks.results import MEAN

MISSING = "–"
NO_CELL: dict[str, Any] = {"documents": 0, "nats_per_byte": None, "low": None, "high": None}


def page(facts: dict[str, Any]) -> str:
    """Return the page that shows a report's facts (see `facts.gather`); everything from them is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_template),
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        {
            "percent": percent,
            "size": size,
            "duration": duration,
            "number": number,
            "domain": shown_domain,
            "score": score,
            "signed": signed,
            "tone": tone,
        }
    )
    environment.filters["glyph"] = lambda arm: ROLES[role_of_arm(arm)][1]
    return environment.get_template("page.html.j2").render(
        facts=facts,
        what=what(facts),
        gained=gained(facts),
        tiles=tiles(facts),
        models=models_of(facts["results"]),
        table=result_table(facts),
        suites=suite_table(facts),
        plots={
            "levels": Markup(levels_plot(facts)),
            "gains": Markup(gains_plot(facts)),
            "clm": Markup(curve_plot(facts, "clm_loss", "Loss on the text")),
            "fusion": Markup(curve_plot(facts, "fusion_loss", "Loss against the fused predictions")),
        },
        costs=costs(facts["stages"]),
        recipe=yaml.safe_dump(facts["recipe"], sort_keys=False, allow_unicode=True),
    )


def _template(name: str) -> str:
    return files("logitfuse.tasks.reporting").joinpath(name).read_text(encoding="utf-8")


def tone(name: str) -> str:
    """Return the CSS class of a role or an arm; `pair` by itself is two columns."""
    known = name if name in (*ROLES, "source") else role_of_arm(name)
    return "pair-model" if known == "pair" else known


def tiles(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Return the few numbers at the top: value, what it is, and what to hold it against."""
    found = []
    for role, called in (("target", "than before"), ("control", "than the control")):
        row = pick(facts["gains"], role=role, domain=MEAN)
        if row is not None and row["percent"] is not None:
            label = f"{'lower' if row['percent'] >= 0 else 'higher'} loss {called}"
            note = f"95% interval {span(row['percent_low'], row['percent_high'])}"
            found.append({"value": in_percent(row["percent"]), "label": label, "note": note, "tone": row["verdict"]})
    fusion = facts["fusion"]
    note = f"of {fusion['positions']:,} positions, with {percent(fusion['mass_kept'])} of the mass"
    if "held_back_share" in fusion:
        note += f"; {percent(fusion['held_back_share'])} were held back, where no source is better than the target"
    found.append(
        {"value": percent(fusion["served_share"]), "label": "had a fused prediction", "note": note, "tone": ""}
    )
    note = f"of work, {size(facts['bytes'])} on disk"
    found.append({"value": duration(facts["seconds"]), "label": "from text to model", "note": note, "tone": ""})
    return found


def result_table(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per domain, all text first, with one cell per model; the best of each row is marked."""
    rows, models = facts["results"], models_of(facts["results"])
    domains = sorted(dict.fromkeys(row["domain"] for row in rows), key=lambda domain: domain != MEAN)
    found = []
    for domain in domains:
        cells = [pick(rows, domain=domain, model=m["model"], role=m["role"]) or NO_CELL for m in models]
        best = min((c["nats_per_byte"] for c in cells if c["nats_per_byte"] is not None), default=None)
        marked = [{**cell, "best": best is not None and cell["nats_per_byte"] == best} for cell in cells]
        found.append({"domain": domain, "documents": max(c["documents"] for c in cells), "cells": marked})
    return found


def costs(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages with the share of the largest time and size, for their bars."""
    seconds, sizes = (max((row[name] for row in stages), default=0) or 1 for name in ("seconds", "bytes"))
    return [
        {**row, "seconds_bar": 100 * row["seconds"] / seconds, "bytes_bar": 100 * row["bytes"] / sizes}
        for row in stages
    ]


def number(value: float | None, digits: int = 3) -> str:
    """Write a number, or a dash where there is none."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def score(value: float | None) -> str:
    """Write a score between 0 and 1 in %."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """Write a difference of scores in percentage points."""
    return MISSING if value is None else f"{100 * value:+.1f}"


def percent(value: float | None) -> str:
    """Write a share as a percentage; only nothing is 0% and only all is 100%."""
    if value is None:
        return MISSING
    if 0 < value < 0.01 or 0.99 < value < 1:
        return f"{100 * value:.1f}%"
    return f"{100 * value:.0f}%"


def span(low: float, high: float) -> str:
    """Write the interval of a gain: as sizes where its direction is certain, with signs where it is not."""
    if low * high > 0:
        return " to ".join(in_percent(value) for value in sorted((low, high), key=abs))
    return f"from {in_percent(low)} higher to {in_percent(high)} lower"


def size(count: float) -> str:
    """Write bytes for people."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Write a time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"
