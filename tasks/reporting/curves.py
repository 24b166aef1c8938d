"""How training went: each arm's losses, step by step, thinned for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitfuse.tasks.train import shown_metrics
from logitfuse.tasks.training.metrics import read_metrics, training_seconds

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

MOST_POINTS = 300
MOST_SKIPPED = 50  # that are named
CURVE = ("step", "tokens_seen", "clm_loss", "fusion_loss")


def training_facts(run: Run) -> dict[str, dict[str, Any]]:
    """Return per arm its steps, tokens, settings, loss over the last tenth of the steps, and its curve.

    Also the steps that were left out, and how well it predicted the held-out sample on the way (nats per byte).
    """
    found = {}
    for unit in run.units("train"):
        record = run.record(unit)
        path = shown_metrics(run, run.work(unit))  # beside the result: whoever copied only results has none
        lines = read_metrics(path) if path.exists() else []
        found[unit.needed_source] = {
            "steps": record.counts["steps"],
            "tokens": record.counts["tokens"],
            "settings": record.settings,
            "clm_loss": last_tenth(lines, "clm_loss"),
            "fusion_loss": last_tenth(lines, "fusion_loss"),
            "untold_steps": record.counts.get("untold_steps", 0),
            "tokens_per_s": overall_speed(record),
            "mfu": median([line["mfu"] for line in lines if line.get("mfu") is not None]),
            "skipped": [
                {"step": line["step"], "why": line["skipped"], "documents": line.get("documents", [])}
                for line in lines
                if "skipped" in line
            ][:MOST_SKIPPED],
            "skipped_steps": record.counts.get("skipped_steps", 0),
            "held_out": held_out_looks(lines),
            "curve": thinned(lines),
        }
    return found


def held_out_looks(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each look at the held-out sample: step, tokens seen by then, nats per byte by domain and `mean`."""
    seen, looks = 0, []
    for line in lines:
        seen += line.get("tokens", 0)
        if "held_out" in line:
            looks.append({"step": line["step"], "tokens_seen": seen, **line["held_out"]})
    return looks


def last_tenth(lines: list[dict[str, Any]], name: str) -> float | None:
    """Return a loss over the last tenth of the steps, weighted by tokens; None where the arm does not have it."""
    last = [line for line in lines[-max(len(lines) // 10, 1) :] if line.get(name) is not None and line.get("tokens")]
    tokens = sum(line["tokens"] for line in last)
    return sum(line[name] * line["tokens"] for line in last) / tokens if tokens else None


def thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most `MOST_POINTS` points, each the token-weighted mean of the steps up to it."""
    size = -(-len(lines) // MOST_POINTS) or 1
    points, seen = [], 0
    for start in range(0, len(lines), size):
        part = lines[start : start + size]
        tokens = sum(line.get("tokens", 0) for line in part)
        seen += tokens
        point = {"step": part[-1]["step"], "tokens_seen": seen}
        for name in ("clm_loss", "fusion_loss"):
            known = [(line[name], line.get("tokens", 0)) for line in part if line.get(name) is not None]
            weight = sum(w for _, w in known)
            point[name] = sum(v * w for v, w in known) / weight if weight else None
        points.append(point)
    return points


def overall_speed(record: Record) -> float | None:
    """Return tokens per second of the whole training, as the terminal says it; None where either is not known."""
    tokens, seconds = record.counts["tokens"], training_seconds(record.made)
    return float(tokens / seconds) if tokens and seconds else None


def median(values: list[float]) -> float | None:
    """Return the median, None of nothing."""
    return sorted(values)[len(values) // 2] if values else None
