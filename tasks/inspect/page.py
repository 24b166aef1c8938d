"""Documents as one HTML page that needs no network: its own small script shows data that cannot run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from logitfuse.tasks.inspect.page_data import page_data


def page(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the page that shows some documents' facts (see `Inspector.document`, with `every`); all is escaped.

    Its policy lets no script, style or picture in but its own script and style.
    """
    script, style = _file("page.js"), _file("page.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("page.html.j2")).render(
        facts=documents[0],
        documents=documents,
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=Markup(style),
        script=Markup(script),
        data=Markup(page_data(documents)),
    )


def _file(name: str) -> str:
    return files("logitfuse.tasks.inspect").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """Return how a policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
