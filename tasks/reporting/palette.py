"""The colours of pages and pictures: one name for each use, a light and a dark value of each.

A test computes the contrast of every pair that meets on a page (WCAG 2.2 AA).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Palette:
    """Colours as #rrggbb."""

    paper: str  # behind everything
    card: str  # behind tables and drawings
    ink: str
    faint: str  # text that comes second
    line: str
    target: str
    control: str
    fused: str
    source: str
    other: str  # ensembles and merged models
    good: str
    bad: str
    warn: str  # behind warnings
    warn_line: str  # beside warnings


LIGHT = Palette(
    paper="#f6f7f9", card="#ffffff", ink="#16202a", faint="#566370", line="#dde2e8", target="#5b6671",
    control="#a24c00", fused="#0a7566", source="#2456c8", other="#8a3ffc", good="#0a7566", bad="#b42318",
    warn="#fff6df", warn_line="#b47a06",
)  # fmt: skip
DARK = Palette(
    paper="#10151b", card="#19212a", ink="#e9eef3", faint="#a3b0bd", line="#303b47", target="#b4bfca",
    control="#f5a55c", fused="#3ed6bf", source="#86aefc", other="#c4a1ff", good="#3ed6bf", bad="#ff8f85",
    warn="#2b2412", warn_line="#c9962e",
)  # fmt: skip
# Inside a page a drawing is made in these, each of which becomes one of the page's own and so follows its theme.
THEMED = Palette(**{name: f"#0102{number:02x}" for number, name in enumerate(asdict(LIGHT), 1)})


def styles(palette: Palette) -> str:
    """Return a palette as the CSS properties that a page uses; page.css.j2 begins with those of both."""
    return " ".join(f"{_property(name)}: {colour};" for name, colour in asdict(palette).items())


def themed(text: str) -> str:
    """Put the page's own colours in the place of those of `THEMED`."""
    for name, colour in asdict(THEMED).items():
        text = text.replace(colour, f"var({_property(name)})")
    return text


def _property(name: str) -> str:
    return f"--{name.replace('_', '-')}"
