"""Drawings: as SVG inside a page, whose colours follow the reader's theme, and as PNG for whoever looks from afar."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from logitfuse.tasks.reporting.palette import LIGHT, THEMED, Palette, themed

PNG_DOTS_PER_INCH = 110
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud, and takes the page's font
    "text.parse_math": False,  # names come from users; a dollar sign in one is a dollar sign
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@contextmanager
def drawing(name: str, palette: Palette = THEMED) -> Iterator[Palette]:
    """Draw in the page's style; the same drawing gives the same bytes."""
    colours: dict[Any, Any] = {
        "text.color": palette.ink,
        "axes.edgecolor": palette.line,
        "axes.labelcolor": palette.faint,
        "axes.facecolor": palette.card,
        "figure.facecolor": palette.card,
        "xtick.color": palette.faint,
        "ytick.color": palette.ink,
        "grid.color": palette.line,
    }
    with matplotlib.rc_context({**SETTINGS, **colours, "svg.hashsalt": name}):
        yield palette


@contextmanager
def picture(name: str) -> Iterator[Palette]:
    """Draw in the same style on white."""
    with drawing(name, LIGHT) as palette:
        yield palette


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an `<svg>` element whose ids begin with `name`; `alt` is what a screen reader says."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", themed(text))
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box
    return f'<svg {box[0]} role="img" aria-label="{escape(alt)}">{body.strip()}'


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=PNG_DOTS_PER_INCH)
    return stream.getvalue()
