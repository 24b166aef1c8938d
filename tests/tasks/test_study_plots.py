"""The plots of a study: what they show stays legible whatever the numbers are."""

from typing import Any

import pytest

from logitfuse.tasks.study.plots import plot_contrasts


def contrast(of: str, delta: float) -> dict[str, Any]:
    low, high = delta - 0.001, delta + 0.001
    return {"of": of, "against": "clm", "delta": delta, "low": low, "high": high, "by_seed": [delta]}


def drawn(*deltas: float) -> tuple[float, list[str]]:
    """Return how far the scale goes, and what is written beside marks at its edge."""
    rows = [contrast(f"v{number}", delta) for number, delta in enumerate(deltas)]
    figure = plot_contrasts({"contrasts": rows, "split": "validation", "locked": None})
    assert figure is not None
    (axes,) = figure.axes
    return max(map(abs, axes.get_xlim())), [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("ruined", [0.238, -0.5])
def test_one_difference_far_beyond_all_others_stands_at_the_edge_with_its_number(ruined: float) -> None:
    reach, written = drawn(-0.007, 0.002, ruined)
    assert reach < 0.02 and written == [f"{ruined:+.3f}"]


@pytest.mark.parametrize("deltas", [(0.238,), (-0.007, 0.02), (0.2, 0.238, -0.001)])
def test_what_is_not_far_off_is_drawn_to_scale(deltas: tuple[float, ...]) -> None:
    reach, written = drawn(*deltas)
    assert reach >= max(map(abs, deltas)) and not written


def test_without_contrasts_there_is_no_plot() -> None:
    assert plot_contrasts({"contrasts": [], "split": "validation", "locked": None}) is None
