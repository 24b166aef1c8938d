"""The alignment report as one HTML page that needs no network and no script, in the look of the run's report."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2

from logitfuse.tasks.alignment_report.wording import (
    HOW,
    READ,
    SEGMENTS,
    notes_on_maps,
    notes_on_reading,
    number,
    percent,
    short_name,
)
from logitfuse.tasks.reporting.formats import size

# Templates of this page lie here, the style sheet beside the run's report.
PACKAGES = {"page.css.j2": "logitfuse.tasks.reporting"}


def page(facts: dict[str, Any]) -> str:
    """Return the page that shows a report's facts (see `facts.gather`); everything from them is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_template),
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update({"percent": percent, "number": number, "size": size, "short": short_name})
    return environment.get_template("alignment.html.j2").render(
        facts=facts,
        tiles=tiles(facts),
        how=HOW,
        read=READ,
        on_maps=notes_on_maps(facts),
        on_reading=notes_on_reading(facts),
        segments=SEGMENTS,
        stretches=max(sum(facts["segments"].values()), 1),
    )


def tiles(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Return the numbers at the top, those of the first method: value, what it is, what to know about it."""
    method = facts["methods"][0]
    found = facts["maps"][method["map"]]
    sure = sum(found["text"][how] for how in ("exact", "role", "byte"))
    source, target = facts["source"]["bytes_per_token"], facts["target"]["bytes_per_token"]
    return [
        {
            "value": percent(method["served"]),
            "label": "of positions served",
            "note": f"alignment {method['alignment']}",
        },
        {"value": percent(sure), "label": "of tokens have an exact match", "note": "same bytes, byte or role"},
        {
            "value": percent(method["next_token_agrees"]),
            "label": "next tokens agree",
            "note": f"where served, under map {method['map']}",
        },
        {
            "value": f"{source:.1f} : {target:.1f}",
            "label": "bytes per token",
            "note": "source : target",
        },
    ]


def _template(name: str) -> str:
    return files(PACKAGES.get(name, "logitfuse.tasks.alignment_report")).joinpath(name).read_text(encoding="utf-8")
