"""The page's drawings: how good each model is, what fusing gained, and how training went."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from logitfuse.tasks.reporting.svg import CONTROL, FAINT, FUSED, OTHER, PAPER, SOURCE, TARGET, drawing, inline_svg
from logitfuse.tasks.results import MEAN

WIDTH = 4.9  # inches; at 72 a line this stays legible on a phone
SOURCE_SHAPES = [("s", "■"), ("^", "▲"), ("v", "▼"), ("<", "◀"), (">", "▶"), ("P", "✚")]
ROLES = {
    "target": ("o", "○", TARGET), "base": ("x", "×", FAINT),
    "control": ("D", "◆", CONTROL), "fused": ("o", "●", FUSED),
    "pair": ("p", "⬟", FUSED), "ensemble": ("*", "★", OTHER), "merged": ("h", "⬢", OTHER),
}  # fmt: skip
ALL_TEXT = "all text"


def shown_domain(domain: str) -> str:
    """Name the mean over all domains so that nobody takes it for a domain."""
    return ALL_TEXT if domain == MEAN else domain


def look(role: str, number: int) -> tuple[str, str, str]:
    """Return marker, the same as a character, and colour of a model; sources differ by shape."""
    return ROLES[role] if role in ROLES else (*SOURCE_SHAPES[number % len(SOURCE_SHAPES)], SOURCE)


def role_of_arm(arm: str) -> str:
    """Return the role of a trained model: fused, control, or pair where it learnt from one source."""
    return arm if arm in ROLES else "pair"


def models_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each model once with its role, its glyph and its colour's name."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if not any((m["model"], m["role"]) == (row["model"], row["role"]) for m in found):
            marker, glyph, colour = look(row["role"], sum(m["role"] == "source" for m in found))
            found.append(
                {"model": row["model"], "role": row["role"], "marker": marker, "glyph": glyph} | {"at": colour}
            )
    return found


def levels_plot(facts: dict[str, Any]) -> str:
    """Draw nats per byte of every model in every domain, with intervals."""
    rows, models = facts["results"], models_of(facts["results"])
    if not rows:
        return ""
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    with drawing("levels"):
        figure, (axes,) = _rows_of(domains, _height(models))
        for at, model in enumerate(models):
            offset = (at - (len(models) - 1) / 2) * 0.72 / max(len(models), 1)
            for row in (r for r in rows if (r["model"], r["role"]) == (model["model"], model["role"])):
                hollow = PAPER if model["role"] == "target" else model["at"]
                _interval(axes, domains.index(row["domain"]) + offset, row, "nats_per_byte", model, hollow)
        axes.set_xlabel("nats per byte, lower is better")
        best = "; ".join(f"{r['model']} {r['nats_per_byte']:.3f}" for r in rows if _drawn(r) and r["domain"] == MEAN)
        return inline_svg(figure, "levels", f"Held-out nats per byte of each model by domain. All text: {best}.")


def gains_plot(facts: dict[str, Any]) -> str:
    """Draw by how much the fused model is better than target and control in every domain, with paired intervals.

    The two gains have a panel and a scale each: what the sources add to more training is often much the smaller one.
    """
    rows = [row for row in facts["gains"] if row["role"] in ("target", "control")]
    if not rows:
        return ""
    roles, domains = (list(dict.fromkeys(row[name] for row in rows)) for name in ("role", "domain"))
    with drawing("gains"):
        figure, panels = _rows_of(domains, _height(models_of(facts["results"])), len(roles))
        for axes, role in zip(panels, roles, strict=True):
            axes.axvline(0, color=FAINT, linewidth=1.4)
            marker, _, colour = ROLES[role]
            for row in (row for row in rows if row["role"] == role):
                hollow = PAPER if role == "target" else colour
                _interval(axes, domains.index(row["domain"]), row, "percent", {"marker": marker, "at": colour}, hollow)
            axes.set_xlabel(f"% against {role}")
            axes.locator_params(axis="x", nbins=4)
            axes.margins(x=0.12)
        said = "; ".join(f"{r['percent']:.2f}% against {r['role']}" for r in rows if _drawn(r) and r["domain"] == MEAN)
        alt = f"By how many percent the fused model's loss is lower, by domain. All text: {said}."
        return inline_svg(figure, "gains", alt)


def _drawn(row: dict[str, Any]) -> bool:
    return row["low"] is not None and row["high"] is not None


def _height(models: list[dict[str, Any]]) -> float:
    return 0.16 * len(models) + 0.22


def _rows_of(domains: list[str], inches: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, 0.75 + max(inches, 0.5) * len(domains)), layout="constrained")
    found = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    for axes in found:
        axes.set_ylim(len(domains) - 0.45, -0.55)
        axes.set_yticks(range(len(domains)), [_short(shown_domain(domain)) for domain in domains])
        axes.grid(axis="y", visible=False)
        for at in range(0, len(domains), 2):
            axes.axhspan(at - 0.5, at + 0.5, color=FAINT, alpha=0.07, linewidth=0)
    return figure, found


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def _interval(axes: Axes, y: float, row: dict[str, Any], name: str, model: dict[str, Any], fill: str) -> None:
    if not _drawn(row):
        return
    low, high = (row["low"], row["high"]) if name != "percent" else (row["percent_low"], row["percent_high"])
    axes.hlines(y, low, high, color=model["at"], linewidth=1.8)
    axes.plot(
        row[name], y, marker=model["marker"], markersize=7, color=model["at"], markerfacecolor=fill, markeredgewidth=1.6
    )


def curve_plot(facts: dict[str, Any], loss: str, title: str) -> str:
    """Draw one loss of all arms over the tokens seen; an empty string where nothing was recorded."""
    arms = {arm: [p for p in told["curve"] if p.get(loss) is not None] for arm, told in facts["training"].items()}
    if not any(arms.values()):
        return ""
    with drawing(loss):
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        axes = figure.subplots()
        # The control first, so that the fused model's line lies on top where the two agree.
        for arm in sorted(arms):
            tokens, values = ([p[name] for p in arms[arm]] for name in ("tokens_seen", loss))
            marker, _, colour = ROLES[role_of_arm(arm)]
            marker = marker if len(values) <= 30 else ""
            # The control is broad, so that it is seen behind a fused model that does the same.
            broad: dict[str, Any] = {"linewidth": 5.0, "alpha": 0.55} if arm == "control" else {"linewidth": 1.8}
            if role_of_arm(arm) == "pair":
                broad |= {"linestyle": ":"}
            axes.plot(tokens, values, color=colour, marker=marker, markersize=4.5, **broad)
        axes.set_xlabel("tokens seen")
        axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
        axes.yaxis.set_tick_params(labelcolor=FAINT)
        ends = "; ".join(f"{arm} ends at {values[-1][loss]:.3f}" for arm, values in arms.items() if values)
        return inline_svg(figure, loss.replace("_", "-"), f"{title} while training, nats per token: {ends}.")


def _thousands(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
