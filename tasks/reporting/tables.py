"""The report's tables: facts put into the rows and cells that a page shows."""

from __future__ import annotations

from typing import Any

from logitfuse.tasks.reporting.comparison import pick
from logitfuse.tasks.reporting.marks import AGAINST, all_text_first, models_of
from logitfuse.tasks.results import MEAN

NO_CELL: dict[str, Any] = {"documents": 0, "nats_per_byte": None, "low": None, "high": None}
Row = dict[str, Any]


def result_table(facts: dict[str, Any]) -> list[Row]:
    """Return a row per domain, all text first: what fusing gained, and a cell per model, the best of them marked."""
    rows, models = facts["results"], models_of(facts["results"])
    found = []
    for domain in all_text_first([row["domain"] for row in rows]):
        cells = [pick(rows, domain=domain, model=m["model"], role=m["role"]) or NO_CELL for m in models]
        best = min((c["nats_per_byte"] for c in cells if c["nats_per_byte"] is not None), default=None)
        marked = [{**cell, "best": best is not None and cell["nats_per_byte"] == best} for cell in cells]
        documents = max(c["documents"] for c in cells)
        found.append({"domain": domain, "documents": documents, "gains": _gains(facts, domain), "cells": marked})
    return found


def _gains(facts: dict[str, Any], domain: str) -> list[Row | None]:
    """Return the gain against the control, if there is one, and against the target as it came."""
    roles = [role for role in sorted(AGAINST) if any(row["role"] == role for row in facts["gains"])]
    found = [pick(facts["gains"], role=role, domain=domain) for role in roles]
    return [row if row is None or row["percent"] is not None else None for row in found]


def winner_rows(facts: dict[str, Any]) -> dict[str, Any]:
    """Return, by domain and by place, the share of the positions that each source won, and its mean weight.

    Also how many positions nobody serves.
    """
    fusion = facts["fusion"]
    winners = fusion["winners"]
    labels = list(fusion["weights"])
    weights = {domain: told["weights"] for domain, told in fusion["by_domain"].items()}
    rows = [_won(labels, row, weights.get(name)) | {"domain": name} for name, row in winners["by_domain"].items()]
    everything = {
        "positions": sum(row["positions"] for row in winners["by_domain"].values()),
        "unserved": sum(row["unserved"] for row in winners["by_domain"].values()),
        "won": {label: sum(row["won"][label] for row in winners["by_domain"].values()) for label in labels},
    }
    first = _won(labels, everything, fusion["weights"]) | {"domain": MEAN}
    by_place = [_won(labels, row) | {"from": row["from"], "to": row["to"]} for row in winners["by_place"]]
    return {
        "by_domain": [first, *rows],
        "by_place": by_place if len(by_place) > 1 else [],
        "unserved": everything["unserved"],
    }


def _won(labels: list[str], row: Row, weights: dict[str, float] | None = None) -> Row:
    """Return a row's shares, those of the sources in their order."""
    every = row["positions"] or 1
    cells = [
        {"share": row["won"][label] / every, "weight": None if weights is None else weights[label]} for label in labels
    ]
    return {"positions": row["positions"], "cells": cells, "unserved": row["unserved"] / every}


def source_rows(facts: dict[str, Any]) -> list[Row]:
    """Return for each source, and last for the fused targets: share served, mass kept, and what it knows more.

    `ahead` is by how many nats per token its predictions beat the target model's where it serves, on held-out text.
    """
    ahead = {
        row["subject"]: -row["difference"]
        for row in facts.get("headroom", {}).get("rows", [])
        if row["domain"] == "all" and row["class"] == "all" and row["difference"] is not None
    }
    rows = [
        {"name": label, "itself": label == facts["target"], "ahead": ahead.get(label), **row}
        for label, row in facts["alignment"].items()
    ]
    fused = {name: facts["fusion"][name] for name in ("served_share", "mass_kept")}
    return [*rows, {"name": "", "itself": False, "ahead": ahead.get("fused"), **fused}]


def cost_rows(stages: list[Row]) -> list[Row]:
    """Return a row per stage, with its parts by source, and the share of the largest time and size for its bars."""
    found: dict[str, Row] = {}
    for row in stages:
        new = {"stage": row["stage"], "units": 0, "seconds": 0, "bytes": 0, "parts": []}
        stage = found.setdefault(row["stage"], new)
        for name in ("units", "seconds", "bytes"):
            stage[name] += row[name]
        if row["source"]:
            stage["parts"].append(row)
    seconds, sizes = (max((row[name] for row in found.values()), default=0) or 1 for name in ("seconds", "bytes"))
    return [
        {**row, "seconds_bar": 100 * row["seconds"] / seconds, "bytes_bar": 100 * row["bytes"] / sizes}
        for row in found.values()
    ]
