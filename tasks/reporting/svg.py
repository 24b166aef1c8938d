"""Drawings as SVG inside the page: the colours follow the reader's theme, and nothing comes from outside."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# A drawing is made in these colours, each of which becomes one of the page's own.
INK, FAINT, LINE = "#010203", "#010204", "#010205"
TARGET, CONTROL, FUSED, SOURCE = "#010206", "#010207", "#010208", "#010209"
PAPER, OTHER = "#01020a", "#01020b"
STYLE_NAMES = {
    INK: "--ink", FAINT: "--faint", LINE: "--line", TARGET: "--target", CONTROL: "--control", FUSED: "--fused",
    SOURCE: "--source", PAPER: "--card", OTHER: "--other",
}  # fmt: skip
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud, and takes the page's font
    "text.parse_math": False,  # names come from users; a dollar sign in one is a dollar sign
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Draw in the page's style; the same drawing gives the same bytes."""
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):
        yield


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an `<svg>` element whose ids begin with `name`; `alt` is what a screen reader says."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    for colour, style in STYLE_NAMES.items():
        text = text.replace(colour, f"var({style})")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box
    return f'<svg {box[0]} role="img" aria-label="{escape(alt)}">{body.strip()}'
