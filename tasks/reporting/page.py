"""The report as one HTML page that needs no network and no script."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from logitfuse.tasks.reporting import formats
from logitfuse.tasks.reporting.cautions import beside_the_answer
from logitfuse.tasks.reporting.curve_plots import CURVES, curve_plot
from logitfuse.tasks.reporting.gains import change, span
from logitfuse.tasks.reporting.headline import gained, what
from logitfuse.tasks.reporting.marks import ROLES, models_of, role_of_arm, shown_domain
from logitfuse.tasks.reporting.plots import MOST_DOMAINS, gains_plot, levels_plot
from logitfuse.tasks.reporting.suites import suite_table
from logitfuse.tasks.reporting.tables import cost_rows, result_table, source_rows, winner_rows
from logitfuse.tasks.reporting.verdict import answer, cards

FORMATS = ("number", "percent", "size", "duration", "score", "signed", "places", "moment")


def page(facts: dict[str, Any]) -> str:
    """Return the page that shows a report's facts (see `facts.gather`); everything from them is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(_template),
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update({name: getattr(formats, name) for name in FORMATS})
    environment.filters.update(
        {
            "change": change,
            "span": span,
            "domain": shown_domain,
            "css_class": css_class,
            "glyph": lambda arm: ROLES[role_of_arm(arm)][1],
        }
    )
    models = models_of(facts["results"])
    return environment.get_template("page.html.j2").render(
        facts=facts,
        answer=answer(facts),
        what=what(facts),
        gained=gained(facts),
        cards=cards(facts),
        cautions=beside_the_answer(facts),
        models=models,
        glyphs={model["model"]: (model["glyph"], model["colour"]) for model in reversed(models)},
        table=result_table(facts),
        suites=suite_table(facts),
        winners=winner_rows(facts),
        survived=source_rows(facts),
        most_domains=MOST_DOMAINS,
        plots={"levels": Markup(levels_plot(facts)), "gains": Markup(gains_plot(facts))},
        curves=[
            {"title": title, "svg": Markup(svg)}
            for curve, (title, _) in CURVES.items()
            if (svg := curve_plot(facts, curve))
        ],
        costs=cost_rows(facts["stages"]),
        recipe=yaml.safe_dump(facts["recipe"], sort_keys=False, allow_unicode=True),
    )


def _template(name: str) -> str:
    return files("logitfuse.tasks.reporting").joinpath(name).read_text(encoding="utf-8")


def css_class(name: str) -> str:
    """Return the CSS class of a role or an arm; `pair` by itself is two columns."""
    known = name if name in (*ROLES, "source") else role_of_arm(name)
    return "pair-model" if known == "pair" else known
